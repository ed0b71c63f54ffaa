"""Locks: exclusive, named in messages, and gone with their process however it ends."""

import json
import os
import signal
import subprocess
import sys

import pytest

from fedsmu_ray.errors import LockedError, TakenOverError
from fedsmu_ray.files.locks import check_owner, file_lock, folder_lock

HOLD = """
import sys
from pathlib import Path
from fedsmu_ray.files.locks import folder_lock
with folder_lock(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], **pipes, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_held_lock_is_refused_with_its_owner(tmp_path, holder):
    with pytest.raises(LockedError) as error, folder_lock(tmp_path, "the run in x"):
        pass
    assert f"the run in x is in use by process {holder.pid} on {os.uname().nodename}" in str(
        error.value
    )


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with folder_lock(tmp_path, "it"):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert (tmp_path / ".lock").read_text() == ""


def test_a_lock_is_exclusive_within_a_process_too(tmp_path):
    with (
        folder_lock(tmp_path, "it"),
        pytest.raises(LockedError, match=f"process {os.getpid()} "),
        folder_lock(tmp_path, "it"),
    ):
        pass
    with folder_lock(tmp_path, "it"):
        pass


def test_a_wait_ends_when_the_owner_does(tmp_path, holder):
    with pytest.raises(LockedError), file_lock(tmp_path / ".lock", "it", timeout_s=0.3):
        pass
    holder.terminate()
    with file_lock(tmp_path / ".lock", "it", timeout_s=30.0):
        pass


def test_a_garbled_lock_file_does_not_matter(tmp_path):
    (tmp_path / ".lock").write_text('{"pid": 1, "since": "x"}')
    with folder_lock(tmp_path, "it"):
        pass


def test_a_lock_file_with_anything_in_it_does_not_matter(tmp_path):
    for raw in (b"\xff\xfe", b"[]", b"{", b'{"process": 3}'):
        (tmp_path / ".lock").write_bytes(raw)
        with folder_lock(tmp_path, "it"):
            check_owner(tmp_path)
        with folder_lock(tmp_path, "it"):
            (tmp_path / ".lock").write_bytes(raw)
            with pytest.raises(LockedError), folder_lock(tmp_path, "it"):
                pass


def test_who_has_lost_a_folder_learns_it_and_to_whom(tmp_path):
    check_owner(tmp_path)
    with folder_lock(tmp_path, "it"):
        check_owner(tmp_path)
        record = {"pid": 7, "host": "gpu-1", "since": 0, "process": "another"}
        (tmp_path / ".lock").write_text(json.dumps(record))
        with pytest.raises(TakenOverError, match="was taken over by process 7 on gpu-1"):
            check_owner(tmp_path)
