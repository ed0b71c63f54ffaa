"""The command that prints the split of the training data."""

import json
import subprocess
import sys

import pytest

from fedsmu_ray import data

pytestmark = pytest.mark.usefixtures("keep_signal_handlers")

DIGITS = (
    "digits: 1,437 training and 360 test samples [1, 8, 8] (uint8), 10 classes; "
    "shards, shards 2, seed 0"
)


def test_command_prints_and_plots_the_split(tmp_path, capsys):
    plot = tmp_path / "split.png"
    split = ["data.clients=12", "data.partition.kind=shards", "federation.cohort=5"]
    assert data.main([*split, "--json", "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert DIGITS in out
    facts = json.loads(out.splitlines()[-1])
    assert facts["clients"] == 12
    assert facts["samples"] == sum(facts["sizes"]) == 12 * 2 * (1437 // 24)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_many_clients_and_classes_are_shortened(capsys):
    options = ["data.dataset=synthetic", "data.options={classes: 30, train: 500, test: 10}"]
    assert data.main([*options, "data.clients=50"]) == 0
    out = capsys.readouterr().out
    assert "most frequent classes" in out and "... and 10 more clients (--all shows them)" in out
    assert data.main([*options, "data.clients=50", "--all"]) == 0
    assert "more clients" not in capsys.readouterr().out


def test_command_explains_what_is_wrong(capsys):
    assert data.main(["data.partition.kind=natural"]) == 2
    wrong = "data.partition.kind = natural: this data set has no natural clients"
    assert wrong in capsys.readouterr().err
    assert data.main(["federation.cohort=5", "data.clients=12", "--plot", "split.nothing"]) == 2
    assert "--plot split.nothing" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys, fedsmu_ray.data\n"
        "try: fedsmu_ray.data.main(['--help'])\n"
        "except SystemExit: print([m for m in ('numpy', 'torch', 'ray', 'mlflow', 'yaml') if m in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout and done.stdout.splitlines()[-1] == "[]"
