"""Checkpoint files: complete or absent, incremental, and never loaded if damaged."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsmu_ray.errors import CheckpointError
from fedsmu_ray.experiment import checkpoint
from fedsmu_ray.experiment.checkpoint import Checkpoint
from fedsmu_ray.federation.tasks import StateRef

SHARDS = {
    "a": {"m": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "b": {"m": np.full((1, 3), 7, np.float32)},
}
STATES = {4: StateRef("a", 0), 9: StateRef("a", 1), 2: StateRef("b", 0)}
SERVER = {"x": np.linspace(0, 1, 3, dtype=np.float32)}


def written(folder, round=5, states=STATES, shards=SHARDS):
    one = Checkpoint(folder)
    one.save(round, {"round": round}, SERVER, states, shards.__getitem__)
    return one


@pytest.fixture(autouse=True)
def plain_names(monkeypatch):
    """Names of files without the tag of their process, as earlier releases wrote them."""
    monkeypatch.setattr(checkpoint, "_new_tag", lambda: "")


def client_states(loaded):
    return {
        client: {k: v[row] for k, v in arrays.items()}
        for arrays, rows, _ in loaded.shards()
        for client, row in rows.items()
    }


def test_round_trip(tmp_path):
    written(tmp_path)
    loaded = Checkpoint(tmp_path).load()
    assert loaded.progress == {"round": 5} and np.array_equal(loaded.server["x"], SERVER["x"])
    got = client_states(loaded)
    assert set(got) == set(STATES)
    for client, state in STATES.items():
        assert np.array_equal(got[client]["m"], SHARDS[state.shard]["m"][state.row])


def test_a_folder_without_a_checkpoint_loads_none(tmp_path):
    assert Checkpoint(tmp_path).load() is None


def test_only_changes_are_written_and_unused_files_are_deleted(tmp_path):
    one = written(tmp_path)
    fetched = []
    new = {**SHARDS, "c": {"m": np.zeros((1, 3), np.float32)}}
    one.save(
        6,
        {"round": 6},
        SERVER,
        {**STATES, 2: StateRef("c", 0)},
        lambda shard: fetched.append(shard) or new[shard],
    )
    assert fetched == ["c"]
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        "checkpoint.json",
        "server-6.safetensors",
        "states-5-0.safetensors",
        "states-6-0.safetensors",
    ]
    assert np.array_equal(client_states(Checkpoint(tmp_path).load())[2]["m"], np.zeros(3))


def test_shards_that_were_read_back_are_not_written_again(tmp_path):
    written(tmp_path)
    again = Checkpoint(tmp_path)
    states = {}
    for number, shard in enumerate(again.load().shards()):
        again.adopt(number, shard.file)
        states.update({client: StateRef(number, row) for client, row in shard.rows.items()})
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("states-*")}
    again.save(6, {"round": 6}, SERVER, states, None)
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("states-*")}
    got = client_states(Checkpoint(tmp_path).load())
    assert set(got) == set(STATES)
    for client, state in STATES.items():
        assert np.array_equal(got[client]["m"], SHARDS[state.shard]["m"][state.row])


def test_the_format_of_the_manifest(tmp_path):
    """The format of version 2 is fixed: releases must read each other's checkpoints."""
    written(tmp_path)
    outer = json.loads((tmp_path / "checkpoint.json").read_text())
    assert set(outer) == {"sha256", "manifest"}
    digests = {p.name: checkpoint._sha256(p.read_bytes()) for p in tmp_path.glob("*.safetensors")}
    first, second = "states-5-0.safetensors", "states-5-1.safetensors"
    assert json.loads(outer["manifest"]) == {
        "version": 2,
        "progress": {"round": 5},
        "server": {"file": "server-5.safetensors", "sha256": digests["server-5.safetensors"]},
        "shards": [
            {"file": first, "sha256": digests[first], "clients": {"4": 0, "9": 1}},
            {"file": second, "sha256": digests[second], "clients": {"2": 0}},
        ],
    }


@pytest.mark.parametrize("fail_at", range(4))
def test_a_failure_at_any_write_leaves_the_previous_one(tmp_path, monkeypatch, fail_at):
    one = written(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    calls = []
    fsync = os.fsync

    def full(fd):
        calls.append(fd)
        if len(calls) == 2 * fail_at + 1:  # every file is synced, then its folder
            raise OSError(28, "No space left on device")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", full)
    new = {"d": {"m": np.ones((2, 3), np.float32)}, "e": {"m": np.ones((1, 3), np.float32)}}
    with pytest.raises(OSError, match="No space left"):
        one.save(
            6,
            {"round": 6},
            SERVER,
            {4: StateRef("d", 0), 9: StateRef("d", 1), 2: StateRef("e", 0)},
            new.__getitem__,
        )
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert Checkpoint(tmp_path).load().progress == {"round": 5}
    one.save(7, {"round": 7}, SERVER, STATES, SHARDS.__getitem__)
    assert Checkpoint(tmp_path).load().progress == {"round": 7}


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_altered_byte_is_refused(tmp_path, data):
    written(tmp_path)
    path = data.draw(st.sampled_from(sorted(tmp_path.iterdir())))
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    try:
        with pytest.raises(CheckpointError):
            client_states(Checkpoint(tmp_path).load())
    finally:
        for leftover in tmp_path.iterdir():
            leftover.unlink()


def forge(folder, manifest, **files):
    """Write a manifest with a valid checksum and the SHA-256 of the given files."""
    for name, raw in files.items():
        (folder / f"{name}.safetensors").write_bytes(raw)
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    (folder / checkpoint.MANIFEST).write_text(
        json.dumps({"sha256": checkpoint._sha256(text.encode()), "manifest": text})
    )


def real(folder):
    written(folder)
    return json.loads(json.loads((folder / checkpoint.MANIFEST).read_text())["manifest"])


def shard(m, **changes):
    return m | {"shards": [m["shards"][0] | changes]}


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda m: m | {"version": 1}, "version 1, this program reads version 2"),
        (lambda m: m | {"version": "9" * 5000}, "version 9{20},"),
        (
            lambda m: m | {"server": m["server"] | {"file": "../x"}},
            r"server.file = .*: String should match pattern",
        ),
        (
            lambda m: m | {"server": m["server"] | {"file": "/etc/passwd"}},
            r"server.file = .*: String should match pattern",
        ),
        (
            lambda m: m | {"server": m["server"] | {"file": ["server-5.safetensors"]}},
            "server.file = .*string",
        ),
        (lambda m: m | {"server": "server-5.safetensors"}, "not a checkpoint manifest"),
        (lambda m: m | {"progress": []}, "progress"),
        (lambda m: m | {"shards": {}}, "shards"),
        (lambda m: {k: v for k, v in m.items() if k != "shards"}, "shards: Field required"),
        (
            lambda m: shard(m, clients={"4": 2}),
            "client 4 is row 2 of states-5-0.safetensors, which has 2",
        ),
        (lambda m: shard(m, clients={"4": -1}), "greater than or equal to 0"),
        (lambda m: shard(m, clients={"4": True}), "valid integer"),
        (lambda m: shard(m, clients={"four": 0}), "four"),
        (lambda m: shard(m, clients={" 4": 0}), "pattern"),
        (lambda m: shard(m, clients={"4": 2**31}), "less than 2147483648"),
        (lambda m: shard(m, clients={"4": 0, "9": 0}), "row 0 of .* is named twice"),
        (lambda m: shard(m, clients={}), "at least 1 item"),
        (lambda m: m | {"shards": m["shards"] * 2}, "states-5-0.safetensors is named twice"),
        (
            lambda m: (
                m | {"shards": [m["shards"][0], m["shards"][1] | {"clients": {"2": 0, "9": 1}}]}
            ),
            "client 9 is named twice",
        ),
        (lambda m: shard(m, sha256="0" * 63), "shards.0.sha256 = '0+: String should match"),
        (lambda m: {}, "not a checkpoint manifest"),
        (lambda m: [], "not a checkpoint manifest"),
        (lambda m: "[" * 100_000, "not a checkpoint manifest"),
        (lambda m: "9" * 10_000, "not a checkpoint manifest"),
    ],
)
def test_manifests_with_good_checksums_and_bad_contents(tmp_path, change, words):
    forge(tmp_path, change(real(tmp_path)))
    with pytest.raises(CheckpointError, match=words) as caught:
        client_states(Checkpoint(tmp_path).load())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[" * 100_000,
        b'{"manifest": "{}"}',
        b'{"manifest": 3, "sha256": 3}',
        b"\xff\xfe",
        b"null",
    ],
)
def test_files_that_are_no_manifest(tmp_path, raw):
    (tmp_path / checkpoint.MANIFEST).write_bytes(raw)
    with pytest.raises(CheckpointError, match="not a checkpoint manifest"):
        Checkpoint(tmp_path).load()


def header(size, **tensors):
    text = json.dumps(tensors).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 8,
        header(2**62),
        header(10**8),
        header(None, x={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}),
        header(None, x={"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 0]}),
        header(None, x={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}) + b"1234",
        header(None, x={"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}) + b"1234",
        header(None, x={"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}) + b"1234",
        header(None, x={"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}) + b"1234",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
    ],
)
def test_array_files_with_false_headers_are_refused_and_allocate_nothing(tmp_path, raw):
    manifest = real(tmp_path)
    forge(
        tmp_path,
        manifest | {"server": {"file": "server-9.safetensors", "sha256": checkpoint._sha256(raw)}},
        **{"server-9": raw},
    )
    with pytest.raises(CheckpointError, match="server-9.safetensors: not an array file"):
        Checkpoint(tmp_path).load()


@pytest.mark.parametrize("make", [Path.mkdir, lambda p: p.symlink_to("gone"), os.mkfifo])
def test_a_manifest_that_cannot_be_read_is_no_missing_one(tmp_path, make):
    make(tmp_path / checkpoint.MANIFEST)
    with pytest.raises(CheckpointError, match="checkpoint.json: (not a file|cannot be read)"):
        Checkpoint(tmp_path).load()


def test_what_an_interrupted_write_left_is_deleted_by_the_next(tmp_path):
    one = written(tmp_path)
    for name in ("states-6-0.safetensors", "states-6-1.safetensors.part", "notes.part"):
        (tmp_path / name).write_bytes(b"left")
    assert len(one.array_files()) == 5
    one.save(7, {"round": 7}, SERVER, STATES, SHARDS.__getitem__)
    assert {p.name for p in tmp_path.iterdir()} == {
        "checkpoint.json",
        "notes.part",
        "server-7.safetensors",
        "states-5-0.safetensors",
        "states-5-1.safetensors",
    }


def test_special_files_are_refused_without_waiting(tmp_path):
    written(tmp_path)
    (tmp_path / "server-5.safetensors").unlink()
    os.mkfifo(tmp_path / "server-5.safetensors")
    with pytest.raises(CheckpointError, match="server-5.safetensors: not a file"):
        Checkpoint(tmp_path).load()
    (tmp_path / checkpoint.MANIFEST).unlink()
    (tmp_path / checkpoint.MANIFEST).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="not a file"):
        Checkpoint(tmp_path).load()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["4", "server-5.safetensors"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["file", "sha256", "clients", "4", "9"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_manifest_with_a_good_checksum_loads_or_is_refused(tmp_path, data):
    manifest = at = real(tmp_path)
    while True:  # walk down to a random place and replace the value there
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(at[key], (dict, list)) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = data.draw(JSON)
        break
    forge(tmp_path, manifest)
    try:
        loaded = Checkpoint(tmp_path).load()
        client_states(loaded)
    except CheckpointError:
        return
    assert isinstance(loaded.progress, dict) and set(loaded.server) == {"x"}


def test_missing_and_truncated_files_are_named(tmp_path):
    written(tmp_path)
    (tmp_path / "states-5-0.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"states-5-0.safetensors: cannot be read"):
        client_states(Checkpoint(tmp_path).load())
