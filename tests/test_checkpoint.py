"""Checkpoint files: whole or not at all, incremental, and nothing damaged is loaded."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsmu_ray import checkpoint
from fedsmu_ray.checkpoint import Checkpoint
from fedsmu_ray.errors import CheckpointError

SHARDS = {"a": {"m": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": {"m": np.full((1, 3), 7, np.float32)}}
PLACES = {4: ("a", 0), 9: ("a", 1), 2: ("b", 0)}
SERVER = {"x": np.linspace(0, 1, 3, dtype=np.float32)}


def written(folder, round=5, places=PLACES, shards=SHARDS):
    one = Checkpoint(folder)
    one.save(round, {"round": round}, SERVER, places, shards.__getitem__)
    return one


def states(loaded):
    return {client: {k: v[row] for k, v in arrays.items()} for arrays, rows in loaded.shards() for client, row in rows.items()}


def test_round_trip(tmp_path):
    written(tmp_path)
    loaded = Checkpoint(tmp_path).load()
    assert loaded.progress == {"round": 5} and np.array_equal(loaded.server["x"], SERVER["x"])
    got = states(loaded)
    assert set(got) == set(PLACES)
    for client, (shard, row) in PLACES.items():
        assert np.array_equal(got[client]["m"], SHARDS[shard]["m"][row])


def test_nothing_written_is_none(tmp_path):
    assert Checkpoint(tmp_path).load() is None


def test_only_what_changed_is_written_and_what_is_not_needed_goes(tmp_path):
    one = written(tmp_path)
    fetched = []
    new = {**SHARDS, "c": {"m": np.zeros((1, 3), np.float32)}}
    one.save(6, {"round": 6}, SERVER, {**PLACES, 2: ("c", 0)}, lambda shard: fetched.append(shard) or new[shard])
    assert fetched == ["c"]
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["checkpoint.json", "server-6.safetensors", "states-5-0.safetensors", "states-6-0.safetensors"]
    assert np.array_equal(states(Checkpoint(tmp_path).load())[2]["m"], np.zeros(3))


@pytest.mark.parametrize("fail_at", range(4))
def test_a_failure_at_any_write_leaves_the_previous_one(tmp_path, monkeypatch, fail_at):
    one = written(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    calls = []
    fsync = checkpoint.os.fsync

    def full(fd):
        calls.append(fd)
        if len(calls) == 2 * fail_at + 1:  # every file is synced, then its folder
            raise OSError(28, "No space left on device")
        fsync(fd)

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    new = {"d": {"m": np.ones((2, 3), np.float32)}, "e": {"m": np.ones((1, 3), np.float32)}}
    with pytest.raises(OSError, match="No space left"):
        one.save(6, {"round": 6}, SERVER, {4: ("d", 0), 9: ("d", 1), 2: ("e", 0)}, new.__getitem__)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert Checkpoint(tmp_path).load().progress == {"round": 5}
    one.save(7, {"round": 7}, SERVER, PLACES, SHARDS.__getitem__)
    assert Checkpoint(tmp_path).load().progress == {"round": 7}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_altered_byte_is_refused(tmp_path, data):
    written(tmp_path)
    path = data.draw(st.sampled_from(sorted(tmp_path.iterdir())))
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    try:
        with pytest.raises(CheckpointError):
            states(Checkpoint(tmp_path).load())
    finally:
        for leftover in tmp_path.iterdir():
            leftover.unlink()


@pytest.mark.parametrize("change, words", [
    (lambda m: m | {"version": 2}, "version 2"),
    (lambda m: m | {"server": {"file": "../x", "sha256": ""}}, "names a file that is none"),
    (lambda m: {}, "not a checkpoint manifest"),
])
def test_manifests_with_good_checksums_and_bad_contents(tmp_path, change, words):
    written(tmp_path)
    path = tmp_path / checkpoint.MANIFEST
    text = json.dumps(change(json.loads(json.loads(path.read_text())["manifest"])))
    path.write_text(json.dumps({"sha256": checkpoint._sha256(text.encode()), "manifest": text}))
    with pytest.raises(CheckpointError, match=words):
        Checkpoint(tmp_path).load()


def test_missing_and_cut_files_are_named(tmp_path):
    written(tmp_path)
    (tmp_path / "states-5-0.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"states-5-0.safetensors: cannot be read"):
        states(Checkpoint(tmp_path).load())
