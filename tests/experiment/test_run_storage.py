"""Runs whose checkpoints are behind a URI."""

import logging
from dataclasses import replace

import pytest

from fedsmu_ray import train
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError, TakenOverError
from fedsmu_ray.experiment import checkpoint
from fedsmu_ray.experiment import run as module
from fedsmu_ray.experiment.run import run
from fedsmu_ray.files import locks
from fedsmu_ray.files.remote import RemotePath, place
from fedsmu_ray.files.run_folders import RUN, find_folder
from fedsmu_ray.tracking.base import NoTracker
from tests.helpers.storages import s3, storage

__all__ = ["s3", "storage"]

PLAIN = {
    "name": "small run",
    "data": {"clients": 20},
    "model": {"hidden": [24]},
    "local": {"epochs": 1, "batch_size": 20},
    "federation": {"rounds": 6, "cohort": 5, "eval_every": 2},
    "tracking": {"uri": None},
    "compute": {"executor": "inline", "clients_per_task": 2},
}


def stored(uri, **federation):
    sections = {"checkpoint": {"every": 2, "folder": uri}}
    return parse({**PLAIN, "federation": {**PLAIN["federation"], **federation}, **sections})


def test_a_run_is_resumed_from_anywhere(storage, tmp_path, monkeypatch, capsys):
    first = run(stored(storage, rounds=4)).summary
    monkeypatch.setenv("FEDSMU_RESULTS", str(tmp_path / "another-host"))
    folder = find_folder(RUN, "", storage, "small run")
    whole = run(parse(PLAIN)).summary
    assert first["model_sha256"] != whole["model_sha256"]
    assert train.main(["--resume", str(folder), "federation.rounds=6", "--json", "--quiet"]) == 0
    assert f'"model_sha256": "{whole["model_sha256"]}"' in capsys.readouterr().out
    assert run(stored(storage), resume="").summary["model_sha256"] == whole["model_sha256"]
    assert not (tmp_path / "another-host").exists()


def test_a_file_uri_is_a_path_with_its_locks(tmp_path):
    run(stored((tmp_path / "runs").as_uri()))
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / ".lock").read_text() == "" and (folder / "config.yaml").exists()


def test_storage_that_cannot_be_written_ends_a_run_before_it_starts(s3):
    uri = s3.uri("x").replace("bucket", "no-such-bucket")
    for wrong in (uri, "nosuch://x/y"):
        told = f"checkpoint.folder = {wrong.partition('?')[0]}.* no folder can be made there .*may"
        with pytest.raises(ConfigError, match=told):
            run(stored(wrong))
        with pytest.raises(ConfigError, match=f"--resume {wrong.partition('?')[0]}"):
            run(stored(wrong), resume=wrong)


def test_storage_that_is_lost_costs_checkpoints_and_not_the_run(storage, caplog, monkeypatch):
    write_bytes, servers = RemotePath.write_bytes, []

    def lost(self, raw):
        servers.extend([self.name] * self.name.startswith("server-"))
        if len(servers) == 2:
            raise OSError(5, "no connection", str(self))
        write_bytes(self, raw)

    monkeypatch.setattr(RemotePath, "write_bytes", lost)
    with caplog.at_level(logging.WARNING):
        summary = run(stored(storage)).summary
    assert summary["model_sha256"] == run(parse(PLAIN)).summary["model_sha256"]
    checkpoint, model = [record.getMessage() for record in caplog.records]
    assert "cannot be written ([Errno 5] no connection: " in checkpoint
    assert "the trained model is not in " in model and "no connection: " in model
    (folder,) = place(storage).iterdir()
    assert sum(path.name.startswith("server-") for path in folder.iterdir()) == 1


def test_a_run_that_was_taken_over_does_not_end_the_tracked_run(tmp_path, monkeypatch):
    """Another process claims the folder, behind a URI or on NFS, before the second checkpoint."""
    saves, ended = [], []
    look = locks.check_owner

    def claim(folder):
        saves.append(folder)
        if len(saves) == 2:
            monkeypatch.setattr(locks, "_PROCESS", "another")
            (folder / ".lock").write_text(locks._record())
            monkeypatch.setattr(locks, "_PROCESS", "this one")
        look(folder)

    class Tracker(NoTracker):
        uri = "recording:"

        def finish(self, run_id, status="FINISHED", metrics=None, tags=None):
            ended.append(status)

    monkeypatch.setattr(module, "open_tracker", lambda *given: Tracker())
    monkeypatch.setattr(locks, "_PROCESS", "this one")
    monkeypatch.setattr(checkpoint, "check_owner", claim)
    config = stored(str(tmp_path / "runs"))
    with pytest.raises(TakenOverError, match="was taken over by process .* goes on"):
        run(replace(config, tracking=replace(config.tracking, uri="recording:")))
    assert not ended
    (folder,) = (tmp_path / "runs").iterdir()
    assert len([*folder.glob("server-*")]) == 1  # of the first checkpoint
    monkeypatch.setattr(checkpoint, "check_owner", look)
    resumed = run(stored(str(tmp_path / "runs")), resume=folder).summary
    assert resumed["model_sha256"] == run(parse(PLAIN)).summary["model_sha256"]
