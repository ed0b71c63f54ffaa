"""The Ray cluster that the executor joins."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.executors.ray_cluster import cluster


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
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, cwd=tmp_path
        )
        assert done.stdout.startswith("a local Ray on this machine"), done.stderr
    finally:
        note.write_text(before) if before else note.unlink(missing_ok=True)


@pytest.mark.slow
def test_a_password_on_the_command_line_is_not_in_the_metadata_of_the_job(tmp_path):
    """Nor in a log of Ray."""
    code = (
        "import ray\nfrom fedsmu_ray.executors.ray_cluster import cluster\n"
        "with cluster():\n"
        "    print(*(job['Entrypoint'] for job in ray._private.state.jobs()))\n"
        "    print(ray._private.worker.global_worker.node.get_session_dir_path())"
    )
    uri = "tracking.uri=http://me:s3cr3t-Pa55@127.0.0.1"
    done = subprocess.run(
        [sys.executable, "-c", code, uri], capture_output=True, text=True, timeout=600, cwd=tmp_path
    )
    assert done.stdout.count(uri.replace("s3cr3t-Pa55", "***")) == 1, done
    files = [path for path in Path(done.stdout.split()[-1]).rglob("*") if path.is_file()]
    assert len(files) > 5 and not [path for path in files if b"s3cr3t-Pa55" in path.read_bytes()]


@pytest.mark.parametrize(
    "section, name", [("model", "import:with_a_lock:Model"), ("algorithm", "import:with_a_lock:M")]
)
def test_user_code_that_cannot_be_sent_is_refused_before_ray_starts(
    section, name, tmp_path, monkeypatch
):
    (tmp_path / "with_a_lock.py").write_text(
        "import threading\nfrom dataclasses import dataclass\nfrom torch import nn\n"
        "from fedsmu_ray.algorithms.fedavg import FedAvg\nLOCK = threading.Lock()\n"
        "class Model(nn.Linear):\n    def forward(self, x):\n        with LOCK: return x\n"
        "@dataclass(frozen=True)\nclass M(FedAvg):\n    def broadcast(self, state): return LOCK\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = parse({section: {"name": name}})
    message = f"{section}.name = {name}: it cannot be sent .*lock.*; create locks, open files"
    with pytest.raises(ConfigError, match=message), cluster(config=config):
        raise AssertionError("Ray was started")
    del sys.modules["with_a_lock"]
