"""The folder of a local Ray, whatever TMPDIR is."""

import logging

import pytest

from fedsmu_ray.errors import ExecutionError
from fedsmu_ray.executors import ray_session
from fedsmu_ray.executors.ray_session import FALLBACK, session_folder


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


def test_the_folder_that_the_user_wants(monkeypatch, caplog):
    assert session_folder() == "/tmp/ray"
    monkeypatch.chdir("/")
    monkeypatch.setenv("TMPDIR", "tmp")
    assert session_folder() == "/tmp/ray" and not caplog.records
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert session_folder() == "/tmp/ray"


@pytest.mark.parametrize(
    "folder, words",
    [
        ("/tmp/" + 70 * "x", "its path is too long for Ray's sockets (at most 39 bytes)"),
        ("/tmp/" + 35 * "ü", "its path is too long"),
        ("/tmp/missing", "nothing can be written there (No such file or directory)"),
        ("/proc", "nothing can be written there"),
    ],
)
def test_another_folder_than_one_that_cannot_be_used(monkeypatch, caplog, folder, words):
    monkeypatch.setenv("TMPDIR", folder)
    with caplog.at_level(logging.WARNING):
        assert session_folder() == str(FALLBACK / "ray")
    (record,) = caplog.records
    assert words in record.getMessage() and folder in record.getMessage()


def test_no_folder_at_all(monkeypatch, tmp_path):
    monkeypatch.setattr(ray_session, "FALLBACK", tmp_path / "missing")
    monkeypatch.setenv("TMPDIR", "/proc")
    with pytest.raises(ExecutionError, match="set TMPDIR to a folder with a short path"):
        session_folder()
