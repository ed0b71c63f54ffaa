"""Private folders and files: permissions, and files that are whole or as they were."""

import os
import stat
import threading

import pytest

from fedsmu_ray.files import folders
from fedsmu_ray.files.folders import private_folder, write


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def permissive_umask():
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_a_folder_is_private_and_its_parents_are_not(tmp_path):
    folder = private_folder(tmp_path / "runs" / "one")
    assert folder == tmp_path / "runs" / "one"
    assert mode(folder) == 0o700 and mode(folder.parent) == 0o775


def test_every_call_makes_another_folder(tmp_path):
    wanted = tmp_path / "digits-20260101-120000"
    wanted.with_name(f"{wanted.name}-3").write_text("a file may be in the way")
    made: list = []
    threads = [
        threading.Thread(target=lambda: made.append(private_folder(wanted))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbered = [f"{wanted.name}-{n}" for n in (2, 4, 5, 6, 7, 8, 9)]
    assert sorted(folder.name for folder in made) == [wanted.name, *numbered]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        private_folder(tmp_path / "file" / "run")


def test_a_file_is_private_and_replaces_the_one_before(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("before")
    (tmp_path / "config.yaml.part").write_text("of a process that was killed")
    write(path, "naïve")
    assert path.read_bytes() == "naïve".encode() and mode(path) == 0o600
    write(path, b"\0\1")
    assert path.read_bytes() == b"\0\1" and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_link_in_the_way_is_replaced_and_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("kept")
    for name in ("run_id", "run_id.part"):
        (tmp_path / name).symlink_to(other)
    write(tmp_path / "run_id", "mine")
    assert other.read_text() == "kept" and (tmp_path / "run_id").read_text() == "mine"
    assert not (tmp_path / "run_id").is_symlink()


def test_a_failure_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    write(path, "before")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, "after")
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == [path.name]
