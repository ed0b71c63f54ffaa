"""cluster.yaml is valid in Ray's schema and has the security settings that users rely on."""

from pathlib import Path

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
