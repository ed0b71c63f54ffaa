"""The records of a sweep on a file system without room."""

from fedsmu_ray.config.validation import parse
from fedsmu_ray.sweeps.folder import find_folder, open_folder
from fedsmu_ray.sweeps.recorder import SweepRecorder
from fedsmu_ray.tracking.mlflow import NoTracker


def test_a_full_disk_costs_the_record_of_an_event_and_not_the_sweep(tmp_path, caplog):
    """/dev/full is a real file that no byte fits into."""
    config = parse(
        {
            "tracking": {"uri": None},
            "tune": {"storage": str(tmp_path), "space": {"local.lr": {"grid": [0.1, 0.2]}}},
        }
    )
    folder = find_folder(config, None)
    book = SweepRecorder(config, folder, NoTracker())
    lines = folder / "trials.jsonl"
    book._write({"event": "start", "index": 0, "params": {"local.lr": 0.1}, "run_id": "a"})
    kept = lines.read_text()
    lines.unlink()
    lines.symlink_to("/dev/full")
    book._write({"event": "end", "index": 0, "status": "completed"})
    assert (
        "trials.jsonl: cannot be written ([Errno 28] No space left on device); a resumed sweep would run this trial again"
        in caplog.text
    )
    lines.unlink()
    lines.write_text(kept + '{"event": "end", "ind')  # what a disk that fills up leaves of a line
    book._write({"event": "start", "index": 1, "params": {"local.lr": 0.2}, "run_id": "b"})
    events = open_folder(folder, config)
    assert [(e["event"], e.get("index")) for e in events] == [
        ("sweep", None),
        ("start", 0),
        ("start", 1),
    ]
