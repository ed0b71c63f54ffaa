"""The code blocks of docs/your-own-method.md, run unchanged."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedsmu_ray import load_config, run
from fedsmu_ray.algorithms.checks import check_method
from fedsmu_ray.algorithms.registry import find
from tests.helpers.quadratics import (
    Quadratics,
    mean_over_clients,
    ragged_cohorts,
    same,
    simulate,
    start,
)

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of the example."""
    text = (DOCS / "your-own-method.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", text, re.DOTALL))
    lines = [line for code in blocks.values() for line in code.splitlines() if line.strip()]
    assert len(lines) < 40
    (tmp_path / "my_method.py").write_text(blocks["python"], encoding="utf-8")
    (tmp_path / "my_method.yaml").write_text(blocks["yaml"], encoding="utf-8")
    return tmp_path


def test_the_example_is_a_method_whose_server_holds_the_mean_shift(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    cls = find("import:my_method:Diana")
    problem = Quadratics.random(6, steps=3, sizes=(3, 4))
    check_method("import:my_method:Diana", cls(), problem.setting(3))
    trace = simulate(cls(bits=2), problem, start(), 40, ragged_cohorts(6, 3, 40))
    same([server["h"] for server in trace.servers], mean_over_clients(trace, "h"), atol=1e-12)


@pytest.mark.slow
def test_the_example_trains_over_ray_and_inline_to_the_same_bits(folder, monkeypatch):
    """The command as the page has it; then the same experiment inline."""
    command = [sys.executable, "-m", "fedsmu_ray.train", "--json", "my_method.yaml"]
    path = os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "tracking.uri=null"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["method"] == "import:my_method:Diana"
    assert summary["test_accuracy"] > 0.7  # chance is 0.1
    monkeypatch.syspath_prepend(folder)
    overrides = {"compute.executor": "inline", "tracking.uri": None}
    inline = run(load_config(folder / "my_method.yaml", overrides))
    assert inline.summary["model_sha256"] == summary["model_sha256"]
