"""cluster.yaml is valid in Ray's schema and has the security settings that users rely on."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def test_cluster_yaml_is_valid_and_not_open_to_the_internet():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    head, worker = (config["available_node_types"][name] for name in ("head", "gpu_worker"))
    assert (
        head["resources"] == {"CPU": 0}
        and worker["resources"]["GPU"] == 1
        and worker["min_workers"] == 0
    )
    for kind in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert any("RAY_AUTH_MODE=token" in command for command in config[kind])
    assert any(
        "--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"]
    )
    assert "security_group" not in config["provider"]  # Ray's default allows only SSH from outside


def excluded():
    """What `ray up` does not copy to the nodes, as patterns of rsync."""
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())["rsync_exclude"]


def test_what_git_ignores_is_not_copied_to_the_nodes():
    assert set((ROOT / ".gitignore").read_text().split()) <= set(excluded())


def test_ray_up_keeps_the_results_on_the_head(tmp_path):
    """A second `ray up` after local runs: rsync, with the options that Ray gives it."""
    if shutil.which("rsync") is None:
        pytest.skip("there is no rsync, with which `ray up` copies files")
    results = ["mlflow.db", "mlflow.db-wal", "fedsmu_runs/a/state.npz", "mlartifacts/1/model.pt"]
    for machine, files in {"laptop": [*results, "fedsmu_ray/cli.py"], "head": results}.items():
        for name in files:
            (tmp_path / machine / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / machine / name).write_text(machine)
    options = [part for pattern in excluded() for part in ("--exclude", pattern)]
    command = ["rsync", "-avz", *options, f"{tmp_path}/laptop/", f"{tmp_path}/head/"]
    subprocess.run(command, check=True, capture_output=True)
    assert all((tmp_path / "head" / name).read_text() == "head" for name in results)
    assert (tmp_path / "head/fedsmu_ray/cli.py").read_text() == "laptop"
