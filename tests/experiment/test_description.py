"""What a checkpoint says of its experiment: its format, and what is refused when it is resumed."""

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import CheckpointError, ConfigError
from fedsmu_ray.executors.inline import InlineExecutor
from fedsmu_ray.experiment import checkpoint
from fedsmu_ray.experiment.checkpoint import Checkpoint
from fedsmu_ray.experiment.resume import check_resume, resumable
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress

PLAIN = {
    "data": {"clients": 20},
    "model": {"hidden": [8]},
    "algorithm": {"name": "scaffold"},
    "local": {"epochs": 1, "batch_size": 20},
    "federation": {"rounds": 5, "cohort": 4},
    "compute": {"executor": "inline", "clients_per_task": 2},
    "checkpoint": {"every": 1},
}


def problem_of(**changes):
    return Problem.of(parse({**PLAIN, **changes}))


def train(problem, folder, stop=None):
    """Train up to a round; returns the hash of the model."""
    executor = InlineExecutor()
    executor.load(problem)
    for record in resumable(problem, executor, Progress(), folder):
        if record.round == stop:
            break
    return executor.sha256()


@pytest.fixture(scope="module")
def problem():
    return problem_of()


@pytest.fixture(scope="module")
def written(problem, tmp_path_factory):
    """The folder of a run that ended after round 4, and what its manifest says."""
    folder = tmp_path_factory.mktemp("run")
    train(problem, folder, 4)
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())["manifest"]
    return folder, json.loads(manifest)


def forge(folder, manifest):
    text = json.dumps(manifest)
    signed = {"sha256": checkpoint._sha256(text.encode()), "manifest": text}
    (folder / checkpoint.MANIFEST).write_text(json.dumps(signed))


def test_the_format(written, problem):
    """Its keys are those that earlier releases wrote, and some more that may be missing."""
    described = written[1]["progress"]
    assert list(described) == ["config", "progress", "data", "versions", "constants"]
    assert described["config"] == json.loads(json.dumps(problem.config.flat()))
    assert described["data"] == problem.dataset.digest()
    assert described["constants"] == {}
    assert set(described["versions"]) >= {"fedsmu_ray", "python", "torch", "numpy"}
    progress = described["progress"]
    assert list(progress) == [
        "round",
        "waiting",
        "evaluated",
        "uplink_bytes",
        "downlink_bytes",
        "dropped",
        "retried",
        "seconds",
    ]
    assert progress["round"] == 4 and progress["waiting"]["round"] == 4
    assert [record["round"] for record in progress["evaluated"]] == [1, 2, 3]
    assert list(progress["evaluated"][0]) == [
        "round",
        "train_loss",
        "uplink_bytes",
        "downlink_bytes",
        "seconds",
        "zero_fraction",
        "dropped",
        "uniformity",
        "test_accuracy",
        "test_loss",
        "val_accuracy",
        "val_loss",
        "retried",
        "elapsed",
        "scores",
        "cohort",
    ]


def test_a_checkpoint_of_an_earlier_release_is_resumed(written, problem, caplog):
    """It has neither digest nor versions, and its configuration lacks keys that came later."""
    folder, manifest = written
    old = copy.deepcopy(manifest)
    del old["progress"]["data"], old["progress"]["versions"]
    del old["progress"]["config"]["federation.dropout"]
    for record in (
        *old["progress"]["progress"]["evaluated"],
        old["progress"]["progress"]["waiting"],
    ):
        del record["val_accuracy"], record["val_loss"]
    forge(folder, old)
    check_resume(problem, folder)
    assert [r.getMessage() for r in caplog.records] == [
        f"{folder}: the checkpoint does not say what its data was (an earlier release wrote it); "
        "make sure that it is the same"
    ]
    with pytest.raises(ConfigError, match="differs in federation.dropout"):
        check_resume(problem_of(federation={**PLAIN["federation"], "dropout": 0.1}), folder)


def test_other_versions_are_named_in_one_line(written, problem, caplog):
    folder, manifest = written
    forge(folder, manifest)
    assert check_resume(problem, folder) == 4
    assert not caplog.records
    other = copy.deepcopy(manifest)
    other["progress"]["versions"] |= {"torch": "2.0.1", "numpy": "1.0", "not_imported": "code 1234"}
    forge(folder, other)
    check_resume(problem, folder)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{folder}: this run goes on with torch ")
    assert " instead of 2.0.1, numpy " in record.getMessage()
    assert "not_imported" not in record.getMessage()


def dataset_files(folder, labels):
    noise = np.random.default_rng(0)
    x = noise.integers(0, 256, (60, 1, 8, 8), np.uint8)
    y = np.arange(60) % 3
    folder.mkdir()
    path = folder / "data.npz"
    np.savez(path, train_x=x, train_y=(y + labels) % 3, test_x=x[:9], test_y=y[:9])
    return str(path)


def test_the_data_may_move_but_not_change(tmp_path, caplog):
    def of(root):
        return problem_of(data={"clients": 6, "dataset": "npz", "root": root})

    whole = of(dataset_files(tmp_path / "one", 0))
    train(whole, tmp_path / "run", 3)
    moved = of(dataset_files(tmp_path / "moved", 0))
    check_resume(moved, tmp_path / "run")
    changed = of(dataset_files(tmp_path / "other", 1))
    with pytest.raises(
        ConfigError,
        match="data.dataset = npz: its samples or labels have changed .*restore the data",
    ):
        check_resume(changed, tmp_path / "run")
    assert train(moved, tmp_path / "run") == train(whole, None) and not caplog.records


def at(manifest, *keys):
    for key in keys:
        manifest = manifest[key]
    return manifest


@pytest.mark.parametrize(
    "keys, value, told",
    [
        (("round",), 10**9, "progress.waiting of the checkpoint is not its round 1000000000"),
        (("round",), "4", "progress.round = '4': Input should be a valid integer"),
        (("round",), 4.0, "progress.round = 4.0: Input should be a valid integer"),
        (("round",), 0, "greater than or equal to 1"),
        (("round",), 2**32, "less than"),
        (("round",), 3, "goes beyond its round 3"),
        (("round",), 5, "progress.waiting of the checkpoint is not its round 5"),
        (("waiting",), None, "lacks rounds up to 4"),
        (("waiting",), {}, "progress.waiting.round: Field required"),
        (("waiting", "round"), 3, "is not in the order of the rounds"),
        (("dropped",), 17, "is more than all sampled clients"),
        (("dropped",), -1, "progress.dropped = -1: "),
        (("dropped",), True, "progress.dropped = True: "),
        (("uplink_bytes",), 2**63, "less than"),
        (("evaluated", 1, "round"), 1, "is not in the order of the rounds"),
        (("evaluated", 1, "test_accuracy"), 1.5, "less than or equal to 1"),
        (("evaluated", 1, "test_accuracy"), None, "holds a round without its evaluation"),
        (("evaluated", 1, "test_loss"), "low", "test_loss = 'low': Input should be a valid number"),
        (("evaluated", 1, "seconds"), float("nan"), "seconds = nan: "),
        (("evaluated", 1, "train_loss"), 10**400, "train_loss = "),
        (("evaluated",), [], "lacks rounds up to 4"),
        (("evaluated",), {}, "Input should be a valid list"),
    ],
)
def test_progress_that_no_run_has_written(written, problem, keys, value, told):
    folder, manifest = written
    forged = copy.deepcopy(manifest)
    at(forged, "progress", "progress", *keys[:-1])[keys[-1]] = value
    forge(folder, forged)
    with pytest.raises(CheckpointError) as error:
        check_resume(problem, folder)
    assert told in str(error.value) and str(folder) in str(error.value)


def test_clients_that_no_run_has_written(written, problem):
    folder, manifest = written

    def refused(change):
        forged = copy.deepcopy(manifest)
        change(forged["shards"])
        forge(folder, forged)
        with pytest.raises(CheckpointError) as error:
            check_resume(problem, folder)
        return str(error.value)

    assert "has a client 20, but data.clients = 20" in refused(
        lambda shards: shards[0]["clients"].update({"20": 5})
    )
    assert "shards of the checkpoint lacks client" in refused(lambda shards: shards.pop())
    absent = set(range(20)) - set(Checkpoint(folder).load().clients)
    missing = min(absent - {int(c) for s in manifest["shards"] for c in s["clients"]})
    assert f"has a client {missing}, which has no state" in refused(
        lambda shards: shards[0]["clients"].update({str(missing): 5})
    )


def leaves(value, path=()):
    """The paths of all values in a manifest."""
    yield path
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inner:
            yield from leaves(each, (*path, key))


VALUES = [None, True, -1, 0, 1, 7, 2**31, 2**64, 10**400, 0.5, -0.0, float("nan"), float("inf")]
VALUES += ["", "4", "\0", "../x", "9" * 5000, [], [[]], {}, {"4": 0}, {"": None}]


def test_a_model_with_other_buffers_is_refused(tmp_path, monkeypatch):
    (tmp_path / "scale.txt").write_text("1.0")
    (tmp_path / "scaled.py").write_text(
        "import torch\nfrom pathlib import Path\nfrom torch import nn\n"
        "class Scaled(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(self.scale * x.flatten(1))\n"
        "def model(shape, classes):\n"
        "    module = Scaled(64, classes)\n"
        f"    scale = float(Path({str(tmp_path / 'scale.txt')!r}).read_text())\n"
        "    module.register_buffer('scale', torch.tensor(scale))\n"
        "    return module\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = {"model": {"name": "import:scaled:model"}}
    train(problem_of(**model), tmp_path, 2)
    check_resume(problem_of(**model), tmp_path)
    (tmp_path / "scale.txt").write_text("2.0")
    with pytest.raises(ConfigError, match="import:scaled:model: its buffers .* scale have changed"):
        check_resume(problem_of(**model), tmp_path)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_with_any_value_changed_is_refused_or_accepted(written, problem, data):
    folder, manifest = written
    forged = copy.deepcopy(manifest)
    path = data.draw(st.sampled_from([p for p in leaves(manifest) if p]))
    parent = at(forged, *path[:-1])
    match data.draw(st.sampled_from(["change", "change", "remove", "add"])):
        case "remove":
            del parent[path[-1]]
        case "add" if isinstance(parent, dict):
            parent["another"] = data.draw(st.sampled_from(VALUES))
        case _:
            parent[path[-1]] = data.draw(st.sampled_from(VALUES))
    forge(folder, forged)
    try:
        check_resume(problem, folder)
    except (CheckpointError, ConfigError) as error:
        assert len(str(error)) < 1500
