"""Sweeps through the Python API, on a local Ray cluster."""

import json
import os
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from fedsmu_ray import load_config, load_model, run, sweep
from fedsmu_ray.display.results import print_sweep
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.numerics import parameters
from fedsmu_ray.sweeps.folder import traces

OWN_METHOD = '''
    """A method of the user's, in a file that only this process can import."""

    from dataclasses import dataclass

    from own_constant import SCALE

    from fedsmu_ray.algorithms.base import Method
    from fedsmu_ray.wire.codecs import Float32


    @dataclass(frozen=True)
    class Scaled(Method):
        rate: float = 1.0

        def uplink(self, setting):
            return {"delta": Float32()}

        def client(self, received, state, local):
            return {"delta": SCALE * (local.train(received["x"]) - received["x"])}, {}

        def server(self, server, mean, round):
            return {"x": server["x"] + self.rate * mean["delta"]}
'''

BROKEN_METHOD = '''
    """FedAvg in a process whose GPU breaks; only in the first process other than the test's."""

    import os
    from dataclasses import dataclass
    from pathlib import Path

    from fedsmu_ray.algorithms.fedavg import FedAvg

    @dataclass(frozen=True)
    class Broken(FedAvg):
        test: int = 0
        marker: str = ""

        def client(self, received, state, local):
            marker, me = Path(self.marker), str(os.getpid())
            if os.getpid() != self.test and not marker.exists():
                marker.write_text(me)
            if os.getpid() != self.test and marker.read_text() == me:
                raise RuntimeError("CUDA error: unspecified launch failure")
            return super().client(received, state, local)
'''


def sha256_of(module):
    return parameters.sha256(parameters.flatten(module), parameters.constants(module))


SETTINGS = {
    "data.clients": 10,
    "model.hidden": [8],
    "local.epochs": 1,
    "federation.rounds": 3,
    "federation.cohort": 3,
    "compute.cpus_per_actor": 0.25,
    "tracking.uri": None,
    "tune.baselines": [],
    "tune.seeds": 1,
}


def test_a_storage_that_cannot_be_written_is_refused_before_the_data_are_read(monkeypatch):
    monkeypatch.setattr(Problem, "of", lambda *arguments: pytest.fail("the data were read"))
    tune = {"tune.space": {"local.lr": {"grid": [0.1]}}, "tune.storage": "/proc/nowhere"}
    with pytest.raises(ConfigError, match="tune.storage = /proc/nowhere: no folder can be made"):
        sweep(load_config(overrides={**SETTINGS, **tune}))


@pytest.mark.slow
def test_a_users_method_is_swept_and_resumed(ray_cluster, tmp_path, monkeypatch):
    """The trials' processes cannot import the user's module: its classes are pickled by value."""
    (tmp_path / "own_constant.py").write_text("SCALE = 0.5\n")
    (tmp_path / "own_method.py").write_text(dedent(OWN_METHOD))
    monkeypatch.syspath_prepend(tmp_path)
    own = {**SETTINGS, "algorithm.name": "import:own_method:Scaled"}
    space = {"algorithm.rate": {"grid": [1.0, 0.5, 0.1]}}
    config = load_config(
        overrides={**own, "tune.space": space, "tune.storage": str(tmp_path / "sweeps")}
    )
    outcome = sweep(config, profile=True)
    assert [f.stem for f in traces(Path(outcome["folder"]))] == [f"trial-00{i}" for i in range(3)]
    assert [t["params"] for t in outcome["trials"]] == [
        {"algorithm.rate": rate} for rate in (1.0, 0.5, 0.1)
    ]
    assert outcome["failed"] == [] and outcome["tracking_uri"] is None
    for trial in outcome["trials"]:
        alone = load_config(overrides={**own, **trial["params"], "compute.executor": "inline"})
        assert trial["model_sha256"] == run(alone).summary["model_sha256"]
        assert trial["method"] == "import:own_method:Scaled"

    # One trial is recorded as failed, one not at all: both run again and give the same bits.
    file = tmp_path / "sweeps" / outcome["folder"].rsplit("/", 1)[-1] / "trials.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()]
    kept = []
    for event in events:
        if event["event"] == "end" and event["index"] == 1:
            kept.append({"event": "end", "index": 1, "status": "failed", "error": "x"})
        elif event.get("index") != 2:
            kept.append(event)
    file.write_text("".join(json.dumps(event) + "\n" for event in kept))
    resumed = sweep(config, resume="")
    assert resumed["folder"] == outcome["folder"]
    hashes = [[t["model_sha256"] for t in each["trials"]] for each in (outcome, resumed)]
    assert hashes[0] == hashes[1]
    # Not run again: even its seconds are the same.
    assert resumed["trials"][0] == outcome["trials"][0]
    for name in ("own_method", "own_constant"):
        sys.modules.pop(name)


@pytest.mark.slow
def test_seeds_cross_trials_and_baselines(ray_cluster, tmp_path):
    """A resumed sweep has the same statistics, though only its folder knows the earlier trials."""
    tune = {
        "tune.seeds": [3, 5, 8],
        "tune.space": {"local.lr": {"grid": [0.1]}},
        "tune.baselines": [{"algorithm.name": "fedavg"}],
        "federation.targets": [0.15],
        "data.validation": 0.2,
        "federation.eval_every": 1,
        "tune.storage": str(tmp_path / "sweeps"),
        "compute.executor": "inline",
    }
    config = load_config(overrides={**SETTINGS, **tune})
    outcome = sweep(config)
    assert [trial["params"].get("seed") for trial in outcome["trials"]] == [3, 5, 8] * 2
    for trial in outcome["trials"][::5]:
        alone = run(load_config(overrides={**SETTINGS, **tune, **trial["params"]}))
        compared = ("model_sha256", "val_accuracy", "test_accuracy")  # one setting of each method
        assert [trial[key] for key in compared] == [alone.summary[key] for key in compared]
        assert trial["score"] == trial["val_accuracy"]
    settings = {row["name"]: row for row in outcome["settings"]}
    assert set(settings) == {"fedavg", "fedsmu lr=0.1"}
    scores = [trial["score"] for trial in outcome["trials"]]
    assert settings["fedavg"]["score"]["mean"] == pytest.approx(sum(scores[:3]) / 3)
    assert settings["fedsmu lr=0.1"]["difference"]["mean"] == pytest.approx(
        (sum(scores[3:]) - sum(scores[:3])) / 3
    )
    folder = Path(outcome["folder"])
    tables = [folder / name for name in ("results.json", "results.csv", "history.csv")]
    history = tables[2].read_text()
    assert all(file.exists() for file in tables) and len(history.splitlines()) == 1 + 6 * 3

    lines = (folder / "trials.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line).get("index") != 4]
    (folder / "trials.jsonl").write_text("".join(kept))
    resumed = sweep(config, resume="")

    def without_seconds(rows):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    assert without_seconds(resumed["settings"]) == without_seconds(outcome["settings"])
    assert resumed["findings"] == outcome["findings"] != []
    assert tables[2].read_text().count("\n") == history.count("\n")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of its database layer
@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_the_model_of_the_best_trial_is_kept(ray_cluster, tmp_path, monkeypatch, executor):
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    own = {
        "compute.executor": executor,
        "tracking.uri": uri,
        "tune.space": {"local.lr": {"grid": [0.01, 0.1, 0.05]}},
        "tune.storage": str(tmp_path / "sweeps"),
    }
    config = load_config(overrides={**SETTINGS, **own})
    outcome = sweep(config)
    best = outcome["best"]
    assert sha256_of(load_model(outcome["model"])) == best["model_sha256"]
    assert [f.name for f in Path(outcome["folder"]).glob("model*")] == [
        f"model-{best['index']:03d}.safetensors"
    ]
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment).experiment_id

    def logged():
        return client.search_logged_models([experiment])

    (model,) = logged()
    assert model.source_run_id == best["run_id"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    loaded = mlflow.pytorch.load_model(f"models:/{model.model_id}")
    assert sha256_of(loaded) == model.tags["model_sha256"] == best["model_sha256"]
    assert outcome["not_in_mlflow"] is None
    resumed = sweep(config, resume="")
    assert resumed["model"] == outcome["model"] and len(logged()) == 1


@pytest.mark.slow
def test_a_process_whose_gpu_broke_runs_no_further_trial(ray_cluster, tmp_path, monkeypatch):
    (tmp_path / "broken_method.py").write_text(dedent(BROKEN_METHOD))
    monkeypatch.syspath_prepend(tmp_path)
    marker = tmp_path / "broken"
    own = {
        "algorithm.name": "import:broken_method:Broken",
        "algorithm.test": os.getpid(),
        "algorithm.marker": str(marker),
        "compute.executor": "inline",
        "tune.concurrent": 1,
        "tune.space": {"local.lr": {"grid": [0.1, 0.05]}},
        "tune.storage": str(tmp_path / "sweeps"),
    }
    outcome = sweep(load_config(overrides={**SETTINGS, **own}))
    assert marker.exists()
    assert len(outcome["trials"]) == 2 and outcome["failed"] == []
    sys.modules.pop("broken_method")


@pytest.mark.slow
def test_a_sweep_minimizes_the_bytes_to_an_accuracy(ray_cluster, tmp_path, capsys):
    """The recipe with two settings: the one that does not reach it comes last, and is complete."""
    changes = {
        "federation.rounds": 12,
        "local.epochs": 10,
        "compute.executor": "inline",
        "tracking.uri": None,
        "tune.search": "grid",
        "tune.samples": 1,
        "tune.space": {"algorithm.gamma1": {"grid": [1e-6, 0.0139]}},
        "tune.baselines": [],
        "tune.storage": str(tmp_path),
    }
    outcome = sweep(load_config("bytes_to_target", changes))
    best, last = (outcome["trials"][row["trials"][0]] for row in outcome["settings"])
    assert (best["params"], last["params"]) == (
        {"algorithm.gamma1": 0.0139},
        {"algorithm.gamma1": 1e-6},
    )
    assert outcome["best"]["score"] == best["uplink_bytes_to_0.9"] == best["uplink_bytes"]
    assert best["rounds"] == best["rounds_to_0.9"] < 12 and best["model_sha256"]
    assert best["stopped"].endswith("reaches federation.stop.target = 0.9")
    assert (last["status"], last["score"], last["rounds"]) == ("completed", None, 12)
    assert outcome["diverged"] == [] and outcome["model"].endswith("model-001.safetensors")
    print_sweep(outcome)
    said = capsys.readouterr().out
    assert "target/0.9/uplink_bytes: not reached by 000 gamma1=1e-06" in said
    assert "not reached" in said.splitlines()[3] and "diverged" not in said


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["median", "hyperband"])
def test_schedulers_stop_trials_and_the_others_have_the_bits_of_a_run(
    ray_cluster, tmp_path, scheduler
):
    """With HyperBand, others than the best have been paused, and so has the best one."""
    rates = [0.001, 0.1, 0.01, 0.3, 0.002, 0.005, 0.2, 0.003]
    changes = {
        "federation.rounds": 9,
        "compute.executor": "inline",
        "tune.space": {"local.lr": {"grid": rates}},
        "tune.baselines": [{"algorithm.name": "fedavg", "local.lr": 0.001}],
        "tune.scheduler": scheduler,
        "tune.storage": str(tmp_path),
    }
    config = load_config(overrides={**SETTINGS, **changes})
    outcome = sweep(config)
    assert len(outcome["trials"]) == 9 and not outcome["failed"] and not outcome["diverged"]
    assert outcome["trials"][0]["status"] == "completed"  # the baseline
    statuses = {trial["status"] for trial in outcome["trials"]}
    assert statuses <= {"completed", "stopped"} and (scheduler == "median" or "stopped" in statuses)
    for trial in outcome["trials"]:
        assert (trial["rounds"] < 9) == (trial["status"] == "stopped")
        if trial["status"] == "completed":
            alone = load_config(overrides={**SETTINGS, **changes, **trial["params"]})
            assert trial["model_sha256"] == run(alone).summary["model_sha256"]
    history = outcome.history()
    assert not history.index.duplicated().any()

    file = Path(outcome["folder"]) / "trials.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    dropped = [line for line in lines if '"event": "end"' not in line or '"index": 3,' not in line]
    assert len(dropped) == len(lines) - 1
    file.write_text("".join(dropped))
    again = sweep(config, resume=outcome["folder"])  # the trial is alone now
    assert len(again["trials"]) == 9 and not again["failed"]


@pytest.mark.slow
def test_a_sweep_by_two_metrics_tells_their_pareto_front(ray_cluster, tmp_path, capsys):
    changes = {
        "compute.executor": "inline",
        "tune.metric": ["test/accuracy", "comm/uplink_bytes"],
        "tune.search": "optuna",
        "tune.samples": 5,
        "tune.concurrent": 1,
        "tune.space": {"federation.cohort": {"choice": [1, 2, 5]}},
        "tune.storage": str(tmp_path),
    }
    config = load_config(overrides={**SETTINGS, **changes})
    outcome = sweep(config)
    assert outcome["metric"] == "test/accuracy"
    assert outcome["metrics"] == ["test/accuracy", "comm/uplink_bytes"]
    least = min(trial["uplink_bytes"] for trial in outcome["trials"])
    front = outcome.front
    assert front[0]["name"] == outcome["settings"][0]["name"]  # the most accurate one
    assert front[-1]["uplink_bytes"]["mean"] == least
    on_front = {index for row in front for index in row["trials"]}
    assert {t["index"] for t in outcome["trials"] if t["pareto"]} == on_front
    print_sweep(outcome)
    said = capsys.readouterr().out
    assert "Pareto front of test/accuracy and comm/uplink_bytes" in said
    folder = Path(outcome["folder"])
    assert (folder / "report" / "front.pdf").exists()
    assert "pareto" in (folder / "results.csv").read_text().splitlines()[0].split(",")
    second = sweep(load_config(overrides={**SETTINGS, **changes}))
    assert [t["params"] for t in second["trials"]] == [t["params"] for t in outcome["trials"]]
