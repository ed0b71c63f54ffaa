"""The commands as a user runs them: processes, files, a real MLflow store, a local Ray."""

import json
import signal
import subprocess
import sys
import warnings

import psutil
import pytest
import torch
import yaml

from fedsmu_ray import load_config, load_model, run, train, tune
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.numerics import parameters
from fedsmu_ray.sweeps.space import split_keys
from fedsmu_ray.wire.message import overhead
from tests.helpers import brake
from tests.helpers.commands import command as started

SMALL = {
    "name": "small",
    "data": {"clients": 20},
    "model": {"hidden": [16]},
    "local": {"epochs": 1, "batch_size": 50, "lr": 0.2},
    "federation": {"rounds": 6, "cohort": 5, "eval_every": 2},
    "compute": {"actors": 1, "cpus_per_actor": 0.5},
    "tune": {
        "space": {"algorithm.gamma1": {"grid": [0.01, 0.02]}},
        "baselines": [{"algorithm.name": "fedavg"}],
    },
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path


def command(folder, module, *arguments, code=0):
    """Run a command to its end; returns what it has printed."""
    with started(folder, module, *arguments) as process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == code, out + err
    return out, err


def alone(folder, params, **sections):
    """Run the configuration of a trial in this process; returns its summary."""
    overrides = {**split_keys(params), "compute.executor": "inline", "tracking.uri": None}
    return run(load_config(folder / "small.yaml", {**overrides, **sections})).summary


def tracked(folder):
    from mlflow import MlflowClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's own, of its database layer
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        return client, client.search_runs([client.get_experiment_by_name("fedsmu").experiment_id])


def test_a_trained_model_is_saved(folder):
    off = ("small.yaml", "compute.executor=inline", "tracking.uri=null")
    out, _ = command(folder, "train", *off, "--save", "models/small.safetensors", "--json")
    module = load_model(folder / "models" / "small.safetensors")
    sha256 = parameters.sha256(parameters.flatten(module), parameters.constants(module))
    assert sha256 == json.loads(out.splitlines()[-1])["model_sha256"]
    _, err = command(folder, "train", *off, "--save", "models", code=2)
    assert "--save models: a folder; give a file" in err and "round" not in err


def test_sweep_end_to_end(folder):
    space = "tune.space={local.lr: {grid: [0.2, 1.0e+30]}}"
    out, err = command(folder, "tune", "small.yaml", "--json", space)
    result = json.loads(out.splitlines()[-1])
    # One trial cannot work: only that trial diverges, and it is reported in one line.
    assert len(result["trials"]) == 2 and result["failed"] == []
    (diverged,) = result["diverged"]
    assert "LocalDivergenceError: round 1, client" in diverged["error"]
    assert f"diverged: {diverged['name']}" in out and f"diverged: {diverged['name']}" not in err
    assert "Traceback" not in out + err and "WARN" not in err, err
    for trial in result["trials"]:
        same = alone(folder, trial["params"])
        assert (
            trial["model_sha256"] == same["model_sha256"]
            and trial["test_accuracy"] == same["test_accuracy"]
        )
        assert trial["uplink_bytes"] == 6 * 5 * (
            (4 * trial["dim"] if trial["method"] == "fedavg" else -(-trial["dim"] // 8)) + 32
        )
    assert f"the report with figures and tables is {result['report']}" in out
    assert "LocalDivergenceError" in (folder / result["report"]).read_text(encoding="utf-8")
    best = max(result["trials"], key=lambda t: t["test_accuracy"])
    assert result["best"]["test_accuracy"] == best["test_accuracy"]
    assert f"python -m fedsmu_ray.ui sqlite:///{folder}/mlflow.db" in out and "[3/3]" in err

    client, found = tracked(folder)
    by_id = {r.info.run_id: r for r in found}
    parent = by_id[result["parent_run_id"]]
    assert parent.info.status == "FINISHED" and parent.data.metrics["best/test_accuracy"] == max(
        t["best_test_accuracy"] for t in result["trials"]
    )
    assert {r.data.tags.get("mlflow.parentRunId") for r in found} == {
        None,
        parent.info.run_id,
    } and len(found) == 4
    for trial in result["trials"]:
        child = by_id[trial["run_id"]]
        assert (
            child.info.status == "FINISHED"
            and child.data.tags["model_sha256"] == trial["model_sha256"]
        )
        accuracy = client.get_metric_history(trial["run_id"], "test/accuracy")
        assert [m.step for m in accuracy] == [2, 4, 6] and accuracy[-1].value == trial[
            "test_accuracy"
        ]
        for name in (
            "test/loss",
            "train/loss",
            "comm/uplink_bytes",
            "comm/downlink_bytes",
            "time/round_s",
            "mu/upload",
        ):
            assert len(client.get_metric_history(trial["run_id"], name)) == 3
        assert child.data.metrics["final/uplink_bytes"] == trial["uplink_bytes"]
        assert (
            float(child.data.params["local.lr"]) == 0.2
            and child.data.params["algorithm.name"] == trial["method"]
        )
        (artifact,) = client.list_artifacts(trial["run_id"])
        assert artifact.path == "config.yaml"
    assert {by_id[f["run_id"]].info.status for f in result["diverged"]} == {"FAILED"}


@pytest.mark.slow
def test_an_interrupted_sweep_ends_and_resumes_to_the_same_bits(folder):
    """SIGINT in the second trial: the sweep would never end by itself, as the trial stands."""
    brakes = brake.Brake(folder, 8)
    sweep = ["tune", "small.yaml", f"algorithm.name={brake.METHOD}", "federation.rounds=20"]
    sweep += ["tune.concurrent=1", "--json"]
    with started(folder, *sweep) as process:
        brakes.wait(process)
        family = psutil.Process(process.pid).children(recursive=True)
        assert any("raylet" in p.name() for p in family)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "1 trial has ended; its results are in " in out and "to resume: " in err
    _, alive = psutil.wait_procs(family, timeout=120)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    _, found = tracked(folder)
    statuses = sorted(r.info.status for r in found)
    # A finished trial, an interrupted trial, and the sweep.
    assert statuses == ["FINISHED", "KILLED", "KILLED"]

    brakes.release()
    out, _ = command(folder, *sweep, "--resume")
    result = json.loads(out.splitlines()[-1])
    assert len(result["trials"]) == 3
    client, found = tracked(folder)
    assert len(found) == 4 and {r.info.status for r in found} == {"FINISHED"}
    for trial in result["trials"]:
        steps = [m.step for m in client.get_metric_history(trial["run_id"], "test/accuracy")]
        assert steps == list(range(2, 21, 2))
    cut = next(t for t in result["trials"] if t["index"] == 1)
    same = alone(folder, cut["params"], **{"federation.rounds": 20})
    assert cut["model_sha256"] == same["model_sha256"]
    _, err = command(folder, "tune", "small.yaml", "--resume", code=2)
    assert "another configuration (differs in algorithm.name, federation.rounds" in err


@pytest.mark.slow
def test_optuna_and_asha(folder):
    overrides = [
        *("tune.search=optuna", "tune.samples=4", "tune.scheduler=asha"),
        *("compute.executor=inline", "federation.rounds=18"),
        "tune.space.local.lr={loguniform: [0.0001, 1]}",
    ]
    out, _ = command(folder, "tune", "small.yaml", "--json", "--quiet", *overrides)
    result = json.loads(out.splitlines()[-1])
    assert (
        len(result["trials"]) == 5
        and result["trials"][0]["method"] == "fedavg"
        and result["trials"][0]["rounds"] == 18
    )
    assert len({t["params"]["local.lr"] for t in result["trials"][1:]}) == 4
    for trial in result["trials"]:
        assert (trial["model_sha256"] is None) == (trial["status"] == "stopped")
        assert trial["rounds"] == 18 or trial["status"] == "stopped"


def test_train_over_ray_and_inline_print_the_same(folder):
    results = []
    for executor in ("ray", "inline"):
        overrides = [f"compute.executor={executor}", "tracking.uri=null"]
        out, err = command(folder, "train", "small.yaml", "--json", *overrides)
        results.append(json.loads(out.splitlines()[-1]))
        assert "tracking is off" in out and "WARN" not in err
    ray, inline = results
    assert {k: v for k, v in ray.items() if k != "seconds"} == {
        k: v for k, v in inline.items() if k != "seconds"
    }
    keys = "run_id rounds test_accuracy test_loss uplink_bytes downlink_bytes clients cohort dim"
    assert {*keys.split(), "model_sha256", "seconds"} <= set(ray)
    config = load_config(folder / "small.yaml")
    assert ray["uplink_bytes"] == 6 * 5 * (
        -(-ray["dim"] // 8) + overhead(Problem.of(config).uplink)
    )


def test_train_tracks_a_run(folder):
    out, _ = command(folder, "train", "small.yaml", "--json", "compute.executor=inline")
    result = json.loads(out.splitlines()[-1])
    client, (tracked_run,) = tracked(folder)
    assert tracked_run.info.run_id == result["run_id"] and tracked_run.info.status == "FINISHED"
    assert tracked_run.data.tags["model_sha256"] == result["model_sha256"]
    assert [m.step for m in client.get_metric_history(result["run_id"], "train/loss")] == [2, 4, 6]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "missing.yaml"], "missing.yaml: cannot be read"),
        (["train", "small.yaml", "local.l=3"], "local.l: unknown key; did you mean local.lr"),
        (
            ["tune", "small.yaml", "federation.cohort=100"],
            "federation.cohort = 100: only data.clients = 20",
        ),
        (["train", "small.yaml", "data.dataset=mnist", "data.root=nowhere"], "data.download=true"),
        (["train", "small.yaml", "model={name: lenet}"], "lenet needs images"),
        (["tune", "small.yaml", "--resume"], "no sweep to resume in"),
        (
            ["train", "small.yaml", "tracking.uri=nonsense://x"],
            "tracking.uri = 'nonsense://x': cannot be opened",
        ),
    ],
)
def test_what_a_user_can_fix_is_one_message_and_exit_code_2(
    folder, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(folder)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert {"train": train, "tune": tune}[arguments[0]].main(arguments[1:]) == 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    out, err = capsys.readouterr()
    assert words in err and "Traceback" not in err and out == ""
    assert not (folder / "fedsmu_runs").exists()


@pytest.mark.slow
def test_actors_that_never_fit_are_refused_at_once(folder):
    overrides = ["compute.actors=500", "compute.cpus_per_actor=1"]
    _, err = command(folder, "train", "small.yaml", *overrides, code=1)
    assert "compute.actors = 500: the cluster has room for" in err and "Traceback" not in err


def test_a_mistake_ends_the_process_with_code_2(folder):
    out, err = command(folder, "train", "small.yaml", "local.l=3", code=2)
    assert (
        "local.l: unknown key; did you mean local.lr" in err
        and "Traceback" not in err
        and out == ""
    )


@pytest.mark.parametrize("module", ["train", "tune"])
def test_help_has_examples(folder, module):
    out, _ = command(folder, module, "--help")
    assert f"python -m fedsmu_ray.{module}" in out and "examples:" in out and "--address" in out


def test_python_api(folder):
    overrides = {"compute.executor": "inline", "tracking.uri": None, "federation.rounds": 25}
    result = run(load_config(folder / "small.yaml", overrides))
    model = result.model()
    inputs, targets = DeviceData(result.problem.dataset, torch.device("cpu")).test_batch(0, 360)
    with torch.inference_mode():
        accuracy = float((model(inputs).argmax(-1) == targets).double().mean())
    assert accuracy == pytest.approx(result.summary["test_accuracy"]) and accuracy > 0.4
    assert len(result.history) == 25


PICKY = """
import math, os
assert os.environ.get("DRIVER", "") in ("", str(os.getpid())), "imported by another process"
os.environ["DRIVER"] = str(os.getpid())
from torch import nn

def model(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
"""


@pytest.mark.slow
def test_a_recipe_with_a_module_beside_it_runs_and_resumes_from_any_folder(folder):
    """Ray's processes inherit $DRIVER: the module is sent to them by value."""
    for name in ("recipe", "here", "elsewhere"):
        (folder / name).mkdir()
    (folder / "recipe" / "picky.py").write_text(PICKY)
    own = {**SMALL, "model": {"name": "import:picky:model"}, "checkpoint": {"every": 2}}
    (folder / "recipe" / "r.yaml").write_text(yaml.safe_dump(own))
    more = ["tracking.uri=null", "--json"]
    out, _ = command(folder / "here", "tune", "../recipe/r.yaml", *more)
    assert len(json.loads(out.splitlines()[-1])["trials"]) == 3
    out, _ = command(folder / "here", "train", "../recipe/r.yaml", *more)
    first = json.loads(out.splitlines()[-1])
    (made,) = (folder / "here" / "fedsmu_runs").glob("*/config.yaml")
    out, _ = command(folder / "elsewhere", "train", "--resume", str(made.parent), *more)
    assert json.loads(out.splitlines()[-1])["model_sha256"] == first["model_sha256"]
    (folder / "recipe" / "picky.py").unlink()
    _, err = command(folder / "elsewhere", "train", "--resume", str(made.parent), code=2)
    assert f"picky cannot be imported (No module named 'picky'); searched: {folder}/recipe, " in err


@pytest.mark.parametrize("script", ["train", "tune"])
def test_an_installed_script_finds_the_working_directory(folder, script):
    (folder / "here.py").write_text("def model(shape, classes):\n    raise ValueError('found')\n")
    (folder / "bin").mkdir()
    (folder / "bin" / "run").write_text(f"from fedsmu_ray.{script} import script; script()")
    arguments = [
        "small.yaml",
        "model={name: 'import:here:model'}",
        "tracking.uri=null",
        "--traceback",
    ]
    done = subprocess.run(
        [sys.executable, "bin/run", *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 2 and f"raised ValueError: found ({folder}/here.py:2)" in done.stderr
    assert (
        "Traceback" in done.stderr and f'File "{folder}/here.py", line 2, in model' in done.stderr
    )
