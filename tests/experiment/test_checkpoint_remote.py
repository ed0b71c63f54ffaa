"""Checkpoints behind a URI, and two processes that write one: it can always be loaded."""

import uuid
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsmu_ray.errors import LockedError
from fedsmu_ray.experiment import checkpoint
from fedsmu_ray.experiment.checkpoint import Checkpoint
from fedsmu_ray.federation.tasks import StateRef
from fedsmu_ray.files import locks
from fedsmu_ray.files.locks import check_owner, folder_lock
from fedsmu_ray.files.remote import RemotePath, place
from tests.helpers.storages import s3, storage

__all__ = ["s3", "storage"]
LATE = "look who is the owner, be overtaken, write"


class Process:
    """A process that trains a run in a folder: the state of client c after round t is [c, t]."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self.checkpoint, self.round, self.states, self.arrays = Checkpoint(folder), 0, {}, {}

    def take_over(self, monkeypatch):
        """Claim the folder, and go on from the checkpoint in it."""
        monkeypatch.setattr(locks, "_PROCESS", self.name)
        with folder_lock(self.folder, "the run"):
            if loaded := self.checkpoint.load():
                self.round = loaded.progress["round"]
                for number, shard in enumerate(loaded.shards()):
                    handle = (self.name, "old", number)
                    self.arrays[handle] = shard.arrays
                    self.checkpoint.adopt(handle, shard.file)
                    self.states.update({c: StateRef(handle, r) for c, r in shard.rows.items()})

    def save(self, monkeypatch, clients):
        """Train some clients for a round and write a checkpoint."""
        monkeypatch.setattr(locks, "_PROCESS", self.name)
        self.round += 1
        for client in clients:
            handle = (self.name, self.round, client)
            self.arrays[handle] = {"m": np.array([[client, self.round]], np.float32)}
            self.states[client] = StateRef(handle, 0)
        server = {"x": np.full(2, self.round, np.float32)}
        progress = {"round": self.round}
        self.checkpoint.save(self.round, progress, server, self.states, self.arrays.__getitem__)


def check(folder):
    """What is in the folder is a whole checkpoint."""
    loaded = Checkpoint(folder).load()
    states = {
        c: shard.arrays["m"][row] for shard in loaded.shards() for c, row in shard.rows.items()
    }
    assert loaded.server["x"][0] == loaded.progress["round"]
    assert all(state[0] == client for client, state in states.items())
    return loaded.progress["round"], states


def test_a_checkpoint_costs_what_has_changed_and_old_files_go(storage, monkeypatch):
    folder = place(storage)
    folder.mkdir()
    one = Process(folder, "one")
    one.take_over(monkeypatch)
    one.save(monkeypatch, [1, 2, 3])
    before = {path.name for path in folder.iterdir()}
    one.save(monkeypatch, [2])
    assert check(folder) == (
        2,
        {1: pytest.approx([1, 1]), 2: pytest.approx([2, 2]), 3: pytest.approx([3, 1])},
    )
    names = {path.name for path in folder.iterdir()}
    assert len(names) == len(before) == 6  # lock, manifest, server, three states
    assert len(names & before) == 4


def test_a_process_that_was_believed_dead_stops(storage, monkeypatch):
    folder = place(storage)
    folder.mkdir()
    one, other = Process(folder, "one"), Process(folder, "other")
    one.take_over(monkeypatch)
    one.save(monkeypatch, [1, 2])
    other.take_over(monkeypatch)
    with pytest.raises(LockedError, match=f"{folder.name}.* was taken over by process .* on "):
        one.save(monkeypatch, [1])
    assert check(folder)[0] == 1
    other.save(monkeypatch, [2])
    assert check(folder)[0] == 2


def test_a_manifest_whose_response_was_lost_keeps_its_files(storage, monkeypatch):
    folder = place(storage)
    folder.mkdir()
    one = Process(folder, "one")
    one.save(monkeypatch, [1])
    write = checkpoint.write

    def lost(path, content):
        write(path, content)
        raise OSError("timeout")

    monkeypatch.setattr(checkpoint, "write", lost)
    with pytest.raises(OSError, match="timeout"):
        one.save(monkeypatch, [1])
    assert check(folder)[0] == 2
    monkeypatch.setattr(checkpoint, "write", write)
    one.save(monkeypatch, [1])
    assert check(folder)[0] == 3 and len([*folder.iterdir()]) == 3


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["save", "take over", LATE]),
            st.sampled_from(["one", "other"]),
            st.lists(st.integers(0, 3), min_size=1, unique=True),
        ),
        max_size=10,
    ),
    saves=st.integers(0, 2),
)
@example([(LATE, "one", [0]), ("save", "other", [1])], 0)
def test_two_writers_leave_a_whole_checkpoint_in_any_order(steps, saves):
    """Also if one takes over between the other's look at the owner and its manifest."""
    folder = place(f"memory://{uuid.uuid4().hex}")
    with pytest.MonkeyPatch.context() as patch:
        processes = {name: Process(folder, name) for name in ("one", "other")}

        def act(kind, name, clients):
            with suppress(LockedError):
                if kind == "take over":
                    processes[name] = Process(folder, name)
                    processes[name].take_over(patch)
                else:
                    processes[name].save(patch, clients)
            check(folder)

        def overtake(name, clients):
            check_owner(folder)
            patch.setattr(checkpoint, "check_owner", check_owner)
            act("take over", name, [])
            for _ in range(saves):
                act("save", name, clients)

        act("save", "one", [0])
        for kind, name, clients in steps:
            if kind == LATE:
                rival = "one" if name == "other" else "other"
                late = partial(overtake, rival, clients)
                patch.setattr(checkpoint, "check_owner", lambda _, late=late: late())
            act(kind, name, clients)
            patch.setattr(checkpoint, "check_owner", check_owner)


def test_no_folder_on_a_disk_is_remote(tmp_path):
    assert isinstance(place(f"local://{tmp_path}"), RemotePath)
    assert not isinstance(place(tmp_path), RemotePath)
