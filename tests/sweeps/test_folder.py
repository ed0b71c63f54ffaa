"""The folder of a sweep: what is recorded in it and what a resumed sweep reads."""

import json
import os
import socket
import stat

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError, LockedError
from fedsmu_ray.files.run_folders import SWEEP, begin
from fedsmu_ray.sweeps.folder import SweepFolder, new_folder, old_folder
from fedsmu_ray.sweeps.recorder import SweepRecorder
from fedsmu_ray.tracking.base import NoTracker


def sweep_config(storage, **sections):
    return parse(
        {
            "tracking": {"uri": None},
            "tune": {"storage": str(storage), "space": {"local.lr": {"grid": [0.1, 0.2]}}},
            **sections,
        }
    )


def make_folder(config):
    """The folder of a sweep that has ended."""
    with new_folder(config) as path:
        begin(SWEEP, path)
        return path


def resume(config, given):
    with old_folder(config, given) as path:
        return path


def test_a_full_disk_loses_a_recorded_event_and_does_not_end_the_sweep(tmp_path, caplog):
    """Writing to /dev/full always fails with "No space left on device"."""
    config = sweep_config(tmp_path)
    folder = SweepFolder(make_folder(config))
    SweepRecorder(config, folder, NoTracker())
    lines = folder.path / "trials.jsonl"
    folder.append({"event": "start", "index": 0, "params": {"local.lr": 0.1}, "run_id": "a"})
    kept = lines.read_text()
    lines.unlink()
    lines.symlink_to("/dev/full")
    folder.append({"event": "end", "index": 0, "status": "completed"})
    assert (
        "trials.jsonl: cannot be written ([Errno 28] No space left on device); a resumed sweep "
        "would run this trial again" in caplog.text
    )
    lines.unlink()
    lines.write_text(kept + '{"event": "end", "ind')  # an incomplete line, as after a full disk
    folder.append({"event": "start", "index": 1, "params": {"local.lr": 0.2}, "run_id": "b"})
    assert [(e["event"], e.get("index")) for e in folder.events()] == [
        ("sweep", None),
        ("start", 0),
        ("start", 1),
    ]


def test_a_resumed_sweep_knows_what_was_recorded(tmp_path):
    """The lines were written by an earlier release; resumed sweeps must still read them."""
    config = sweep_config(tmp_path)
    path = make_folder(config)
    ended = {"event": "end", "index": 0, "status": "completed", "score": 0.5, "run_id": "a"}
    events = [
        {"event": "sweep", "run_id": "parent"},
        {"event": "start", "index": 0, "params": {"local.lr": 0.1}, "run_id": "a"},
        {"event": "start", "index": 1, "params": {"local.lr": 0.2}, "run_id": "b"},
        ended,
        {"event": "end", "index": 1, "status": "failed", "error": "x", "run_id": "b"},
    ]
    text = "".join(json.dumps(event) + "\n" for event in events) + '{"event": "st'
    (path / "trials.jsonl").write_text(text)
    with old_folder(config, "") as found:
        folder = SweepFolder(found)
    assert folder.path == path and folder.parent_run == "parent"
    assert folder.ended == {0: ended}
    assert folder.unfinished == {1: {"local.lr": 0.2}}  # it failed, so it runs again
    assert folder.run_ids == {0: "a", 1: "b"}
    folder.trial_ended(1, "001 lr=0.2", {"status": "stopped"})
    assert folder.unfinished == {} and set(folder.ended) == {0, 1}
    *before, last = (path / "trials.jsonl").read_text().splitlines()
    assert before == text.splitlines()  # the incomplete line stays a separate line
    assert json.loads(last) == {
        "event": "end",
        "index": 1,
        "status": "stopped",
        "name": "001 lr=0.2",
        "run_id": "b",
        "params": {"local.lr": 0.2},
    }


def test_a_sweep_is_resumed_only_with_its_configuration(tmp_path):
    config = sweep_config(tmp_path)
    with pytest.raises(ConfigError, match="no sweep to resume in .*: none is named experiment"):
        resume(config, "")
    path = make_folder(config)
    assert resume(config, "") == resume(config, str(path)) == path
    with pytest.raises(ConfigError, match=r"another configuration \(differs in local.lr, seed\)"):
        resume(sweep_config(tmp_path, seed=1, local={"lr": 0.3}), "")
    tune = {"storage": str(tmp_path), "space": {"local.lr": {"grid": [0.1, 0.2]}}}
    with pytest.raises(ConfigError, match=r"differs in tune.space\)"):
        other = {**tune, "space": {"local.lr": {"grid": [0.1]}}}
        resume(sweep_config(tmp_path, tune=other), "")
    # Where the sweep is, how many trials run at once and what is told of them does not change its
    # trials; the mode is the metric's own.
    same = {**tune, "storage": "elsewhere", "concurrent": 1, "mode": "max"}
    more = {"federation": {"targets": [0.9]}}
    assert resume(sweep_config(tmp_path, tune=same, **more), str(path)) == path


def test_a_sweep_has_a_folder_of_its_own_that_is_private_and_locked(tmp_path):
    config = sweep_config(tmp_path / "sweeps")
    with new_folder(config) as one, new_folder(config) as other:  # in the same second
        assert one != other and one.parent == other.parent == tmp_path / "sweeps"
        for path in (one, other):
            begin(SWEEP, path)
        modes = [stat.S_IMODE(p.stat().st_mode) for p in (one, one / "sweep.yaml")]
        assert modes == [0o700, 0o600]
        for given in ("", str(other)):
            with pytest.raises(LockedError) as caught:
                resume(config, given)
            owner = f"process {os.getpid()} on {socket.gethostname()}"
            assert f"the sweep in {other} is in use by {owner} (since " in str(caught.value)
    assert resume(config, "") == other


def test_nan_that_an_earlier_release_wrote_is_read_as_none(tmp_path):
    config = sweep_config(tmp_path)
    folder = SweepFolder(make_folder(config))
    line = (
        '{"event": "end", "index": 0, "status": "completed", "score": NaN, "test_loss": -Infinity}'
    )
    (folder.path / "trials.jsonl").write_text(line + "\n")
    (row,) = SweepFolder(folder.path).ended.values()
    assert row["score"] is None and row["test_loss"] is None


def test_a_sweep_is_not_resumed_with_other_data(tmp_path):
    config = sweep_config(tmp_path)
    folder = SweepFolder(make_folder(config))
    folder.check_data(config, "a" * 32)  # a new sweep, or one of an earlier release
    folder.data_loaded("a" * 32)
    again = SweepFolder(folder.path)
    again.check_data(config, "a" * 32)
    again.data_loaded("a" * 32)
    assert [event["event"] for event in again.events()] == ["data"]
    told = f"--resume {folder.path}: data.dataset = digits: .* changed .*digest b+, before a+.;"
    with pytest.raises(ConfigError, match=told):
        again.check_data(config, "b" * 32)
