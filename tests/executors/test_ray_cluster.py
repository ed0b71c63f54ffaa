"""The Ray cluster that the executor joins."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_cluster_that_is_gone_is_not_joined(tmp_path):
    """Ray writes the address of the latest cluster to a file, which stays after a crash."""
    note = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    before = note.read_text() if note.exists() else None
    note.parent.mkdir(exist_ok=True)
    note.write_text("127.0.0.1:1")
    try:
        code = (
            "from fedsmu_ray.executors.ray_cluster import cluster\n"
            "with cluster() as where: print(where)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.stdout.startswith("a local Ray on this machine"), done.stderr
    finally:
        note.write_text(before) if before else note.unlink(missing_ok=True)
