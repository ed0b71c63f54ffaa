"""Code that all trackers share: the round cursor, runs without tracking, URIs."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedsmu_ray.tracking.base import NewRun, NoTracker, RoundCursor, absolute_uri
from fedsmu_ray.tracking.registry import open_tracker


def test_a_cursor_is_strictly_increasing():
    cursor = RoundCursor()
    new = []
    for number in (1, 2, 2, 1, 5, 3, 5, 6):
        if cursor.is_new(number):
            new.append(number)
        cursor.advance(number)
    assert new == [1, 2, 5, 6] and cursor.last == 6


def test_a_cursor_can_begin_after_a_round():
    cursor = RoundCursor(3)
    assert not cursor.is_new(3) and cursor.is_new(4)
    cursor.advance(2)
    assert cursor.last == 3


@pytest.mark.parametrize("uri", [None, ""])
def test_without_a_uri_nothing_is_tracked(uri, tmp_path):
    tracker = open_tracker(uri, "fedsmu", tmp_path)
    assert isinstance(tracker, NoTracker) and tracker.uri is None
    run = tracker.start(NewRun("name", {}))
    assert tracker.resume(run, NewRun("name", {})) == run
    tracker.log(run, {"train/loss": 1.0}, 1)
    tracker.finish(run, "FAILED", {"final/train_loss": 1.0}, {"tag": "value"})
    assert run == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri, absolute",
    [
        ("sqlite:///mlflow.db", "sqlite:///{cwd}/mlflow.db"),
        ("sqlite:///a/b.db", "sqlite:///{cwd}/a/b.db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("file:///a", "file:///a"),
    ],
)
def test_relative_sqlite_paths_become_absolute(uri, absolute):
    assert absolute_uri(uri) == absolute.format(cwd=Path.cwd())


def test_no_tracking_and_the_uri_import_no_mlflow():
    code = (
        "import sys\n"
        "from fedsmu_ray.tracking import base, metrics, registry\n"
        "registry.open_tracker(None, 'fedsmu')\n"
        "base.absolute_uri('sqlite:///mlflow.db')\n"
        "print('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
