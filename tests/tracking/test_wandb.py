"""Weights & Biases with its real client, offline: what its files have."""

import json
import struct
from dataclasses import replace

import pytest

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.tracking.base import NewRun
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


def records(folder):
    """What the files of all runs below a folder have: (id, name, group), rounds, summary."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for file in sorted(folder.glob("offline-run-*/*.wandb")):
        run, rounds, summary = None, [], {}
        for data in messages(file):
            record = Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run = record.run.run_id, record.run.display_name, record.run.run_group
            elif kind == "history":
                row = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
                rounds.append(int(json.loads(row["round"])))
            elif kind == "summary":
                items = record.summary.update
                summary |= {i.key or i.nested_key[0]: i.value_json for i in items}
        found.append((run, rounds, summary))
    return found


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
    again.finish(parent)
    found = records(folder)
    group = "sweep-01234567"
    assert {each[0] for each in found} == {
        (parent, "sweep", group),
        (child, "lr=0.1 s=0", group),
    }
    assert sorted(each[1] for each in found) == [[], [], [1, 2], [3]]
    (ended,) = [summary for _, rounds, summary in found if rounds == [3]]
    assert ended["final/test_accuracy"] == "0.5" and ended["model_sha256"] == '"ab"'


def test_without_a_key_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match="run `wandb login`, set WANDB_API_KEY, or"):
        check_key()
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_key()
