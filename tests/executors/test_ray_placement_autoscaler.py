"""A cluster that begins without workers; the autoscaler starts them, as raylets of this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from ray._private import services

pytestmark = pytest.mark.slow

EMPTY = "initialization setup head_setup worker_setup head_start_ray worker_start_ray"
CLUSTER = {
    "cluster_name": "fake",
    "max_workers": 2,
    "provider": {"type": "fake_multinode"},
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
    "head_node_type": "ray.head.default",
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    "auth": {},
    "docker": {},
    "file_mounts": {},
    **dict.fromkeys([f"{name}_commands" for name in EMPTY.split()], []),
    **dict.fromkeys(["cluster_synced_files", "rsync_exclude", "rsync_filter"], []),
}


@pytest.fixture(scope="module")
def address(home):
    """The address of a head without CPUs, whose autoscaler may start two workers of one CPU."""
    with tempfile.TemporaryDirectory(prefix="as", dir="/tmp") as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        gcs = f"{services.get_node_ip_address()}:{port}"
        provider = {**CLUSTER["provider"], "gcs_address": gcs, "launch_multiple": True}
        cluster = {**CLUSTER, "provider": provider}
        (Path(folder) / "cluster.yaml").write_text(json.dumps(cluster))
        fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        environment = {**os.environ, **fake, "RAY_enable_autoscaler_v2": "0", "TMPDIR": folder}
        started = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}"]
            + ["--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}/ray"]
            + [f"--autoscaling-config={folder}/cluster.yaml"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert started.returncode == 0, started.stderr
        try:
            yield f"127.0.0.1:{port}"
        finally:
            for process in psutil.process_iter(["cmdline"]):
                if folder in " ".join(process.info["cmdline"] or []):
                    process.send_signal(signal.SIGKILL)


def command(name, address, *overrides, folder, home, timeout=400):
    common = ["tracking.uri=null", f"tune.storage={folder}", "compute.cpus_per_actor=1"]
    return subprocess.run(
        [sys.executable, "-m", f"fedsmu_ray.{name}", "--address", address, *common, *overrides],
        cwd=folder,
        env={**os.environ, "HOME": str(home), "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.parametrize(
    "name, overrides, message",
    [
        (
            "train",
            ["compute.gpus_per_actor=1"],
            "one client actor needs 1 CPU, 1 GPU on one node, and none has that: ",
        ),
        ("train", ["compute.actors=3"], "compute.actors = 3: the cluster has room for 2 with "),
        ("tune", ["compute.actors=3"], "compute.actors = 3: the cluster has room for 2 with "),
        (
            "tune",
            ["compute.actors=1", "tune.space={compute.actors: {grid: [1, 4]}}"],
            "compute.actors = 4: the cluster has room for 2 with ",
        ),
    ],
)
def test_what_the_autoscaler_cannot_bring_is_refused(
    name, overrides, message, address, tmp_path, home
):
    done = command(name, address, *overrides, folder=tmp_path, home=home)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert message in done.stderr, done.stderr
    assert "; the autoscaler may have at most 2 workers: 2 of type worker (1 CPU);" in done.stderr


def test_a_run_starts_workers_from_zero(address, tmp_path, home):
    options = ["federation.rounds=20", "compute.actors=2", "local.epochs=1"]
    done = command("train", address, *options, folder=tmp_path, home=home)
    assert done.returncode == 0, done.stderr
    assert "INFO node joined: " in done.stderr and "(1 CPU)" in done.stderr, done.stderr


def test_a_sweep_that_does_not_get_its_resources_says_so_and_ends(address, tmp_path, home):
    """Both workers are there now, and something else has them."""
    options = ["federation.rounds=100000", "compute.actors=2"]
    common = ["tracking.uri=null", "compute.cpus_per_actor=1"]
    with open(tmp_path / "log", "w") as log:
        other = subprocess.Popen(
            [sys.executable, "-m", "fedsmu_ray.train", "--address", address, *common, *options],
            cwd=tmp_path,
            env={**os.environ, "HOME": str(home), "PYTHONPATH": os.getcwd()},
            stderr=log,
        )
    try:
        while "per round" not in (tmp_path / "log").read_text():
            assert other.poll() is None, (tmp_path / "log").read_text()
        options = ["compute.actors=1", "compute.wait_s=40"]
        done = command("tune", address, *options, folder=tmp_path, home=home)
    finally:
        other.kill()
        other.wait()
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "WARNING no trial runs since 30 s: a trial needs 1 CPU, and free are " in done.stderr
    assert "error: no trial could start for 40 s (compute.wait_s): " in done.stderr
    assert "to resume: " in done.stderr
