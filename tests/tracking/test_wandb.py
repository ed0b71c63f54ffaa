"""Weights & Biases with its real client, offline: what its files have."""

import json
import struct
import time
from dataclasses import replace

import pytest

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.tracking.base import DESCRIPTION, NewRun, run_link
from fedsmu_ray.tracking.wandb import WandbTracker, check_key
from tests.helpers.mlflow_runs import values

RUN = NewRun("lr=0.1 s=0", {"local.lr": "0.1"}, {"fedsmu.method": "fedsmu"})


def messages(file):
    """The messages of a file in LevelDB's log format: blocks of 32 KiB with checksummed parts."""
    raw, at, whole = file.read_bytes(), 7, b""  # after the magic bytes and the version
    while at + 7 <= len(raw):
        if 32768 - at % 32768 < 7:  # too little for the head of a part
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, at)
        whole += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # complete, or the last part
            yield whole
            whole = b""


def parsed(file):
    """The records of a file and their kinds."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for data in messages(file):
        record = Record()
        record.ParseFromString(data)
        found.append((record.WhichOneof("record_type"), record))
    return found


def ended(folder, count):
    """The records of `count` runs; the client's service writes their ends when it gets to it."""
    until = time.monotonic() + 60
    while True:
        runs = [parsed(file) for file in folder.glob("offline-run-*/*.wandb")]
        complete = [run for run in runs if run and run[-1][0] == "exit"]
        if len(complete) == count or time.monotonic() > until:
            return complete
        time.sleep(0.1)


def contents(records):
    """(id, name, group) of a run, its rounds and its summary, with the notes of the run."""
    run, rounds, summary = None, [], {}
    for kind, record in records:
        if kind == "run":
            run = record.run.run_id, record.run.display_name, record.run.run_group
            summary["notes"] = record.run.notes
        elif kind == "history":
            row = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
            rounds.append(int(json.loads(row["round"])))
        elif kind == "summary":
            items = record.summary.update
            summary |= {i.key or i.nested_key[0]: i.value_json for i in items}
    return run, rounds, summary


def test_runs_of_a_sweep_and_a_resumed_one_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "wandb"
    parent, child = "0123456789abcdef", "fedcba9876543210"  # as MLflow gives them
    trial = replace(RUN, parent=parent)
    tracker = WandbTracker(folder, "fedsmu")
    assert tracker.start(NewRun("sweep", {}, id=parent)) == parent
    assert tracker.start(replace(trial, id=child)) == child
    for step in (1, 2):
        tracker.log(child, values(step), step)
    tracker.finish(child, "KILLED")
    tracker.finish(parent, "KILLED")
    again = WandbTracker(folder, "fedsmu")
    again.resume(parent, NewRun("sweep", {}))
    again.resume(child, trial)
    for step in (1, 2, 3):
        again.log(child, values(step), step)
    again.finish(child, "FINISHED", {"final/test_accuracy": 0.5}, {"model_sha256": "ab"})
    again.finish(parent, tags={DESCRIPTION: f"best: {run_link('s=0', child)}"})
    found = [contents(records) for records in ended(folder, 4)]
    group = "sweep-01234567"
    assert {each[0] for each in found} == {
        (parent, "sweep", group),
        (child, "lr=0.1 s=0", group),
    }
    assert sorted(each[1] for each in found) == [[], [], [1, 2], [3]]
    assert f"best: [s=0]({child})" in {summary["notes"] for _, _, summary in found}
    (final,) = [summary for _, rounds, summary in found if rounds == [3]]
    assert final["final/test_accuracy"] == "0.5" and final["model_sha256"] == '"ab"'


def test_without_a_key_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match="run `wandb login`, set WANDB_API_KEY, or"):
        check_key()
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_key()
