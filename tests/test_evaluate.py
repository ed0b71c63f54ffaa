"""`python -m fedsmu_ray.evaluate`: what it prints, and its exit codes."""

import json

import pytest

from fedsmu_ray import evaluate
from fedsmu_ray.config.validation import parse
from fedsmu_ray.experiment.run import run

pytestmark = pytest.mark.usefixtures("keep_signal_handlers")

PLAIN = {
    "data": {"clients": 10},
    "model": {"name": "linear"},
    "local": {"epochs": 1, "batch_size": 50},
    "federation": {"rounds": 1, "cohort": 3},
    "tracking": {"uri": None},
    "compute": {"executor": "inline"},
}


@pytest.fixture
def saved(tmp_path):
    result = run(parse(PLAIN))
    result.save(tmp_path / "model.safetensors")
    return result.summary, str(tmp_path / "model.safetensors")


def test_accuracy_and_loss_of_a_model(saved, capsys):
    summary, file = saved
    assert evaluate.main([file, "--json"]) == 0
    line, last = capsys.readouterr().out.splitlines()
    model = summary["model_sha256"][:12]
    assert line == (
        f"test accuracy {100 * summary['test_accuracy']:.2f} %, test loss "
        f"{summary['test_loss']:.4g} on 360 samples of digits (model {model})"
    )
    results = json.loads(last)
    assert results["test_accuracy"] == summary["test_accuracy"]
    assert results["test_loss"] == summary["test_loss"]


@pytest.mark.parametrize("prefix", ["", "data."])
def test_other_data(saved, capsys, prefix):
    _, file = saved
    data = [f"{prefix}dataset=synthetic", f"{prefix}options={{shape: [1, 8, 8], test: 50}}"]
    assert evaluate.main([file, "--data", *data]) == 0
    assert "on 50 samples of synthetic" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of its database layer
def test_the_model_of_a_tracked_run(tmp_path, capsys):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    summary = run(parse({**PLAIN, "tracking": {"uri": uri}})).summary
    assert evaluate.main([summary["run_id"], "--tracking-uri", uri, "--json"]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert results["test_loss"] == summary["test_loss"]
    assert results["model_sha256"] == summary["model_sha256"]


def test_mistakes_are_one_message(saved, capsys, tmp_path):
    _, file = saved
    for arguments, code, message in (
        ([str(tmp_path / "no")], 1, "no: cannot be read: No such file or directory"),
        ([file, "--data", "roots=/data"], 2, "data.roots: unknown key"),
        ([file, "--data", "dataset=synthetic"], 2, "takes samples [1, 8, 8] of numbers"),
    ):
        assert evaluate.main(arguments) == code
        out, err = capsys.readouterr()
        assert out == "" and message in err and "Traceback" not in err
