"""Experiments that are stopped at any point and resumed end with the same bits."""

import json
import os
import signal
import stat
import subprocess
import sys

import pytest
import yaml

from fedsmu_ray import run
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import CheckpointError, ConfigError, LockedError, LostError
from fedsmu_ray.executors.inline import InlineExecutor
from fedsmu_ray.experiment import resume
from fedsmu_ray.experiment.checkpoint import Checkpoint
from fedsmu_ray.experiment.resume import (
    MAX_RESTARTS,
    new_folder,
    old_folder,
    resumable,
    trial_folder,
)
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress
from fedsmu_ray.federation.tasks import StateRef
from fedsmu_ray.files.run_folders import RUN, begin
from tests.helpers import brake
from tests.helpers.commands import command
from tests.helpers.tracked import have_points, points

PLAIN = {
    "data": {"clients": 20},
    "model": {"hidden": [24]},
    "local": {"epochs": 1, "batch_size": 20},
    "federation": {"rounds": 9, "cohort": 5, "eval_every": 2},
    "tracking": {"uri": None},
    "compute": {"executor": "inline", "clients_per_task": 2},
    "checkpoint": {"every": 1},
}


def problem_of(**changes):
    return Problem.of(parse({**PLAIN, **changes}))


def rounds_until(problem, folder, stop=None):
    """Records of the rounds up to `stop`; then the executor is discarded, as after a kill."""
    executor, records, progress = InlineExecutor(), [], Progress()
    executor.load(problem)
    try:
        for record in resumable(problem, executor, progress, folder):
            records.append(record)
            if record.round == stop:
                break
        return records, executor.sha256()
    finally:
        executor.close()


def kept_config(folder):
    return parse({**PLAIN, "name": "kept", "checkpoint": {"every": 1, "folder": str(folder)}})


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def without_seconds(records):
    return [
        (
            r.round,
            r.cohort,
            r.train_loss,
            r.accuracy,
            r.loss,
            r.test_loss,
            r.uplink_bytes,
            r.downlink_bytes,
            r.uniformity,
        )
        for r in records
    ]


@pytest.mark.parametrize("validation", [0.0, 0.2])
@pytest.mark.parametrize(
    "algorithm",
    [{"name": "fedsmu"}, {"name": "fedavg"}, {"name": "scaffold"}, {"name": "dlion"}],
    ids=lambda a: a["name"],
)
@pytest.mark.parametrize("stop", [1, 4, 8])
def test_resumed_runs_have_the_bits_of_undisturbed_ones(tmp_path, algorithm, stop, validation):
    problem = problem_of(algorithm=algorithm, data={"clients": 20, "validation": validation})
    whole, sha256 = rounds_until(problem, None)
    first, _ = rounds_until(problem, tmp_path, stop)
    second, resumed = rounds_until(problem, tmp_path)
    assert resumed == sha256
    assert [r for r in without_seconds(second) if r[3] is not None] == [
        r for r in without_seconds(whole) if r[3] is not None
    ]
    known = {r.round for r in first}
    assert without_seconds(first + [r for r in second if r.round not in known]) == without_seconds(
        whole
    )


@pytest.mark.parametrize(
    "sampling",
    [
        "weighted",
        "fixed",
        "cyclic",
        "import:tests.federation.test_cohort:alternating",
        "power_of_choice",
    ],
)
def test_a_resumed_run_samples_the_clients_of_an_undisturbed_one(tmp_path, sampling):
    partition = {"kind": "quantity_skew", "alpha": 0.5}
    data = {"clients": 20, "partition": partition}
    federation = {**PLAIN["federation"], "sampling": sampling, "dropout": 0.3}
    problem = problem_of(algorithm={"name": "scaffold"}, data=data, federation=federation)
    whole, sha256 = rounds_until(problem, None)
    rounds_until(problem, tmp_path, 4)
    second, resumed = rounds_until(problem, tmp_path)
    assert resumed == sha256 and without_seconds(second)[-3:] == without_seconds(whole)[-3:]
    if sampling == "power_of_choice":
        assert all({*r.cohort} < {*problem.cohort(r.round)} for r in whole)
    else:
        assert [r.cohort for r in whole] == [tuple(problem.cohort(t)) for t in range(1, 10)]
    with pytest.raises(ConfigError, match=r"differs in .*federation.sampling"):
        rounds_until(problem_of(algorithm={"name": "scaffold"}, data=data), tmp_path)


def test_a_resumed_run_may_have_more_rounds_but_no_other_change(tmp_path):
    short = {"federation": {**PLAIN["federation"], "rounds": 4}}
    rounds_until(problem_of(**short), tmp_path)
    _, longer = rounds_until(problem_of(), tmp_path)
    assert longer == rounds_until(problem_of(), None)[1]
    with pytest.raises(ConfigError, match=r"another experiment \(differs in local.lr\)"):
        rounds_until(problem_of(local={**PLAIN["local"], "lr": 0.2}), tmp_path)


def test_a_full_disk_skips_a_checkpoint_and_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    problem = problem_of()
    save, calls = Checkpoint.save, []

    def sometimes(self, *arguments):
        calls.append(1)
        if len(calls) in (2, 3):
            raise OSError(28, "No space left on device")
        save(self, *arguments)

    monkeypatch.setattr(Checkpoint, "save", sometimes)
    _, sha256 = rounds_until(problem, tmp_path)
    assert sha256 == rounds_until(problem, None)[1]
    assert "No space left on device" in caplog.text and "the previous one is kept" in caplog.text


def test_a_damaged_checkpoint_is_never_trained_on(tmp_path):
    rounds_until(problem_of(), tmp_path, 4)
    (server,) = tmp_path.glob("server-*.safetensors")
    raw = bytearray(server.read_bytes())
    raw[-5] ^= 1
    server.write_bytes(raw)
    with pytest.raises(CheckpointError, match=f"{server.name}: checksum mismatch"):
        rounds_until(problem_of(), tmp_path)


@pytest.mark.parametrize(
    "forge, match",
    [
        (lambda a: a.update(y=a.pop("x")), "'x' is missing"),
        (lambda a: a.update(x=a["x"][:-1]), r"'x' is float32 .\d+,"),
        (lambda a: a.update(x=a["x"][None]), r"'x' is float32 .1, \d+"),
        (lambda a: a.update(x=a["x"].astype("float64")), "'x' is float64"),
        (lambda a: a.update(x=a["x"] * float("inf")), "'x' is not finite"),
    ],
)
def test_a_forged_server_state_is_never_trained_on(tmp_path, forge, match):
    """A checkpoint with valid checksums whose contents this program would not have written."""
    problem = problem_of(algorithm={"name": "fedavg"})
    rounds_until(problem, tmp_path, 4)
    forged = Checkpoint(tmp_path)
    loaded = forged.load()
    server = dict(loaded.server)
    forge(server)
    forged.save(4, loaded.progress, server, {}, None)
    told = rf"server-4-\w+.safetensors: the state of the server does not fit .*{match}"
    with pytest.raises(CheckpointError, match=told):
        rounds_until(problem, tmp_path)


def test_old_states_in_shards_are_not_read_back(tmp_path):
    problem = problem_of()
    whole = rounds_until(problem, None)
    rounds_until(problem, tmp_path, 6)
    saved = list(Checkpoint(tmp_path).load().shards())
    assert any(len(shard.rows) < len(shard.arrays["m"]) for shard in saved)
    executor, progress = InlineExecutor(), Progress()
    executor.load(problem)
    next(resumable(problem, executor, progress, tmp_path))
    assert (
        progress.states.rows
        == len(progress.states.latest)
        == sum(len(shard.rows) for shard in saved)
    )
    for shard in saved:
        for client, row in shard.rows.items():
            at = progress.states.latest[client]
            assert (executor.get_shard(at.shard)["m"][at.row] == shard.arrays["m"][row]).all()
    executor.close()
    assert rounds_until(problem, tmp_path)[1] == whole[1]


def test_forged_client_states_are_never_trained_on(tmp_path):
    problem = problem_of()
    rounds_until(problem, tmp_path, 4)
    forged = Checkpoint(tmp_path)
    loaded = forged.load()
    shards = [(shard.arrays["m"], shard.rows) for shard in loaded.shards()]
    states = {c: StateRef(i, row) for i, (_, rows) in enumerate(shards) for c, row in rows.items()}
    for change, match in (
        (lambda m: m[:, :-1], r"'m' is float32"),
        (lambda m: m[:, None], r"'m' is float32 .\d, 1, \d+"),
        (lambda m: m.astype("int32"), "'m' is int32"),
        (lambda m: m * float("nan"), "'m' is not finite"),
    ):
        arrays = [{"m": change(m) if i == 1 else m} for i, (m, _) in enumerate(shards)]
        Checkpoint(tmp_path).save(4, loaded.progress, loaded.server, states, arrays.__getitem__)
        told = rf"states-4-1-\w+.safetensors: the state of the clients does not fit .*{match}"
        with pytest.raises(CheckpointError, match=told):
            rounds_until(problem, tmp_path)


def test_a_manifest_without_its_file_ends_the_run_and_array_files_alone_are_told(tmp_path, caplog):
    problem = problem_of()
    rounds_until(problem, tmp_path, 4)
    manifest = tmp_path / "checkpoint.json"
    manifest.unlink()
    resume.check_resume(problem, tmp_path)
    assert "array files; the experiment begins again at round 1" in caplog.text
    manifest.symlink_to("gone")
    with pytest.raises(CheckpointError, match="checkpoint.json: cannot be read: No such file"):
        rounds_until(problem, tmp_path)


def test_fewer_rounds_than_are_done_are_refused(tmp_path):
    """With as many, the result is told again: that of the last round, with its model."""
    config = kept_config(tmp_path)
    first = run(config).summary
    (folder,) = tmp_path.iterdir()
    before = contents(folder)

    def again(rounds):
        federation = {**PLAIN["federation"], "rounds": rounds}
        return run(parse({**config.to_dict(), "federation": federation}), resume=folder).summary

    for rounds in (1, 8):
        told = (
            rf"--resume {folder}: federation.rounds = {rounds}: 9 rounds are done; give at least 9"
        )
        with pytest.raises(ConfigError, match=told):
            again(rounds)
    same = again(9)
    own = {"seconds": 0, "nodes": {}}  # this time no node has trained
    assert {**same, **own} == {**first, **own}
    assert contents(folder) == before
    assert again(10)["rounds"] == 10


def test_the_result_of_a_round_that_was_not_evaluated_is_refused(tmp_path):
    problem = problem_of(federation={**PLAIN["federation"], "eval_every": 4})
    rounds_until(problem, tmp_path, 3)  # the last checkpoint is that of round 2
    short = problem_of(federation={"rounds": 2, "cohort": 5, "eval_every": 4})
    told = r"federation.rounds = 2: 2 rounds are done, but the last one was not .*at least 3"
    with pytest.raises(ConfigError, match=told):
        rounds_until(short, tmp_path)
    assert rounds_until(problem, tmp_path)[1] == rounds_until(problem, None)[1]


def test_a_checkpoint_that_has_options_of_other_models_as_null_is_read(tmp_path):
    """Earlier releases wrote them so."""
    problem = problem_of(algorithm={"name": "fedavg"})
    rounds_until(problem, tmp_path, 4)
    old = Checkpoint(tmp_path)
    loaded = old.load()
    unused = {"model.filters": None, "model.stem": None, "model.groups": None}
    config = {**loaded.progress["config"], **unused}
    old.save(4, {**loaded.progress, "config": config}, loaded.server, {}, None)
    assert rounds_until(problem, tmp_path)[1] == rounds_until(problem, None)[1]


class Losing(InlineExecutor):
    """An executor that loses its server at the given calls of `step`, counted from 1."""

    def __init__(self, problem, losses):
        super().__init__()
        self.load(problem)
        self.losses, self.steps, self.recovered = losses, 0, 0

    def step(self, missing):
        self.steps += 1
        if self.steps in self.losses:
            raise LostError("the server is lost")
        return super().step(missing)

    def recover(self):
        self.recovered += 1
        self.load(self.problem)


@pytest.mark.parametrize("every", [None, 2])
def test_a_loss_restarts_the_experiment_and_yields_every_round_once(tmp_path, every, caplog):
    problem = problem_of(algorithm={"name": "scaffold"}, checkpoint={"every": every})
    whole, sha256 = rounds_until(problem, None)
    executor = Losing(problem, {5, 6, 12})
    folder = tmp_path if every else None
    records = list(resumable(problem, executor, Progress(), folder))
    assert without_seconds(records) == without_seconds(whole) and executor.sha256() == sha256
    assert executor.recovered == 3
    origin = "the last checkpoint" if every else "round 1 (checkpoint.every is not set)"
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"the server is lost; restarting from {origin} (restart {n} of at most {MAX_RESTARTS} in a "
        "row)"
        for n in (1, 2, 1)
    ]


def test_losses_without_a_new_round_between_them_end_the_experiment():
    executor = Losing(problem_of(), range(3, 100))
    records = []
    with pytest.raises(LostError, match="the server is lost"):
        for record in resumable(executor.problem, executor, Progress(), None):
            records.append(record)
    assert [record.round for record in records] == [1] and executor.recovered == MAX_RESTARTS


def test_the_folder_of_a_run_is_new_private_and_locked(tmp_path):
    kept = kept_config(tmp_path / "runs")
    with new_folder(kept) as one, new_folder(kept) as other:  # in the same second
        assert one != other and one.parent == other.parent == tmp_path / "runs"
        for folder in (one, other):
            assert folder.name.startswith("kept-")
            begin(RUN, folder)
            assert (folder / "config.yaml").read_text() == kept.to_yaml()
            modes = [stat.S_IMODE(p.stat().st_mode) for p in (folder, folder / "config.yaml")]
            assert modes == [0o700, 0o600]
            with pytest.raises(LockedError, match=f"the run in {folder} is in use by process"):
                old_folder(kept, folder).__enter__()
    with old_folder(kept, one) as again:
        assert again == one
    with new_folder(parse({**PLAIN, "checkpoint": {}})) as none:
        assert none is None
    with pytest.raises(ConfigError, match="--resume .*: not the folder of a run .no config.yaml"):
        old_folder(kept, tmp_path).__enter__()


def test_a_run_that_is_still_alive_is_not_resumed(tmp_path):
    """Nothing in its folder changes, and it can be resumed when its process is gone."""
    config = kept_config(tmp_path)
    sha256 = run(config).summary["model_sha256"]
    (folder,) = tmp_path.iterdir()
    hold = (
        "import sys; from pathlib import Path\n"
        "from fedsmu_ray.files.locks import folder_lock\n"
        "with folder_lock(Path(sys.argv[1]), 'it'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    owner = subprocess.Popen([sys.executable, "-c", hold, str(folder)], **pipes, text=True)
    with owner:
        assert owner.stdout.readline() == "held\n"
        before = contents(folder)
        where = f"process {owner.pid} on {os.uname().nodename}"
        with pytest.raises(LockedError, match=f"the run in {folder} is in use by {where}"):
            run(config, resume=folder)
        assert contents(folder) == before
        owner.kill()
    assert run(config, resume=folder).summary["model_sha256"] == sha256
    files = [p for p in folder.iterdir() if p.name != ".lock"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o600}


def test_the_folder_of_a_trial_waits_for_the_process_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "TRIAL_TIMEOUT_S", 0.3)
    folder = tmp_path / "sweep" / "checkpoint-000"
    used = pytest.raises(LockedError, match=f"the trial in {folder} is in use by process")
    with trial_folder(folder), used:
        trial_folder(folder).__enter__()
    with trial_folder(folder), trial_folder(None):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


BRAKED = {
    **PLAIN,
    "algorithm": {"name": brake.METHOD, "gamma1": 0.01},
    "compute": {"actors": 1, "cpus_per_actor": 0.5, "clients_per_task": 2},
    "federation": {**PLAIN["federation"], "rounds": 150},
    "tracking": {},
    "checkpoint": {"every": 5, "folder": "runs"},
    "tune": {"space": {"algorithm.gamma1": {"grid": [0.01]}}, "storage": "runs"},
}


@pytest.mark.slow
@pytest.mark.parametrize("module", ["train", "tune"])
def test_a_killed_process_changes_neither_the_result_nor_the_points(tmp_path, module):
    """SIGKILL for a run over Ray that then is resumed, and for a trial that Tune starts again.

    Some points are in MLflow by then, and others are not.
    """
    uri, brakes = f"sqlite:///{tmp_path}/mlflow.db", brake.Brake(tmp_path, 8)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(BRAKED))
    with command(tmp_path, module, "r.yaml", "--json") as process:
        brakes.advance(process, lambda: have_points(uri), "points in MLflow")
        (manifest,) = tmp_path.glob("runs/**/checkpoint.json")
        owner = json.loads((manifest.parent / ".lock").read_text())["pid"]
        assert 5 <= Checkpoint(manifest.parent).load().progress["progress"]["round"] < 150
        assert (owner == process.pid) == (module == "train")
        os.kill(owner, signal.SIGKILL)
        brakes.release()
        if module == "tune":
            out, err = process.communicate(timeout=600)
    if module == "train":
        with command(tmp_path, module, "--resume", str(manifest.parent), "--json") as process:
            out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    (result,) = result["trials"] if module == "tune" else (result,)
    plain = {**BRAKED, "algorithm": {**BRAKED["algorithm"], "name": "fedsmu"}}
    inline = {**plain, "compute": {**BRAKED["compute"], "executor": "inline"}}
    undisturbed = run(parse({**inline, "tracking": {"uri": None}, "checkpoint": {}})).summary
    own = {"name", "method", "seconds", "nodes", "run_id", "tracking_uri", "not_in_mlflow"}
    same = (result.keys() & undisturbed.keys()) - own
    assert {"model_sha256", "test_loss", "uplink_bytes", "rounds"} <= same
    assert {key: result[key] for key in same} == {key: undisturbed[key] for key in same}
    steps = [m.step for m in points(uri, result["run_id"], "test/accuracy")]
    assert steps == list(range(2, 151, 2))


@pytest.mark.parametrize("validation", [0.0, 0.2])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(
    "algorithm", [{"name": "fedsmu"}, {"name": "dlion"}], ids=lambda a: a["name"]
)
def test_a_run_that_federation_stop_ends_is_resumed_to_the_same_end(
    tmp_path, algorithm, every, validation
):
    """From a checkpoint before that round, and from one of it, after which nothing is left."""
    federation = {**PLAIN["federation"], "stop": {"metric": "train/loss", "target": 100.0}}
    federation["stop"]["min_rounds"] = 5  # and rounds 2, 4, ... are evaluated
    problem = problem_of(
        algorithm=algorithm,
        data={"clients": 20, "validation": validation},
        federation=federation,
        checkpoint={"every": every},
    )
    whole, sha256 = rounds_until(problem, None)
    assert whole[-1].round == 6 and whole[-1].test_loss is not None
    rounds_until(problem, tmp_path, 3)
    for _ in range(2):
        again, resumed = rounds_until(problem, tmp_path)
        assert resumed == sha256
        seen = {r.round: r for r in again}
        assert max(seen) == 6
        expected = [r for r in whole if r.round in seen]
        assert without_seconds(seen.values()) == without_seconds(expected)


def test_another_rule_for_the_end_is_another_experiment(tmp_path):
    federation = {**PLAIN["federation"], "stop": {"patience": 9}}
    rounds_until(problem_of(federation=federation), tmp_path, 2)
    federation["stop"] = {"patience": 8}
    with pytest.raises(ConfigError, match=r"differs in federation\.stop\.patience"):
        resume.check_resume(problem_of(federation=federation), tmp_path)


def test_the_time_of_the_rounds_goes_on_in_a_resumed_run(tmp_path):
    problem = problem_of()
    first, _ = rounds_until(problem, tmp_path, 4)
    again, _ = rounds_until(problem, tmp_path)
    assert again[0].round == 2 and again[0].elapsed == first[1].elapsed  # as it was saved
    new = [(a, b) for a, b in zip(again, again[1:]) if b.round == a.round + 1]
    assert len(new) >= 4
    for a, b in new:
        assert b.elapsed == pytest.approx(a.elapsed + b.seconds)
