"""The files that describe clusters are valid, pinned to the same versions, and closed to others."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
CLOUDS = ["cluster.yaml", "clusters/gcp.yaml"]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def load(name):
    return yaml.safe_load(text(name))


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_is_valid_and_not_open_to_the_internet(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load(name)
    prepared = prepare_config(config)
    validate_config(prepared)
    head, worker = (config["available_node_types"][kind] for kind in ("head", "gpu_worker"))
    assert head["resources"] == {"CPU": 0}
    assert worker["resources"] == {"CPU": 4, "GPU": 1} and worker["min_workers"] == 0
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    (start,) = [each for each in config["head_start_ray_commands"] if "--head" in each]
    assert "--dashboard-host=127.0.0.1" in start
    assert "security_group" not in config["provider"]  # Ray's default allows only SSH from outside
    used = {key: value for key, value in prepared.items() if key.endswith("_commands")}
    assert "nightly" not in str(used) and "ray-wheels" not in str(used)  # defaults of Ray


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_stays_and_keeps_results_on_its_disk(name):
    config = load(name)
    types = config["available_node_types"]
    head, worker = (types[kind]["node_config"] for kind in ("head", "gpu_worker"))
    spot = {"InstanceMarketOptions", "scheduling"}
    assert not spot & set(head) and len(spot & set(worker)) == 1
    assert config["provider"]["cache_stopped_nodes"]  # `ray down` stops the head
    options = dict(option.split() for option in config["docker"]["head_run_options"])
    outside, inside = options["-v"].split(":")
    assert options["-e"] == f"FEDSMU_RESULTS={inside}" and outside == "/home/ubuntu/fedsmu_results"
    copied = config["file_mounts"]
    assert not [path for path in copied if inside.startswith(path) or path.startswith(inside)]


def test_aws_has_one_line_for_the_region():
    assert len(re.findall(r"\b\w\w-\w+-\d\b", text("cluster.yaml"))) == 1
    for kind in load("cluster.yaml")["available_node_types"].values():
        assert kind["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/")


@pytest.mark.parametrize("name", [*CLOUDS, "clusters/local.yaml"])
def test_ray_up_keeps_the_results_on_the_head(name, tmp_path):
    """A second `ray up` after local runs: rsync, with the options that Ray gives it."""
    if shutil.which("rsync") is None:
        pytest.skip("there is no rsync, with which `ray up` copies files")
    results = ["mlflow.db", "mlflow.db-wal", "fedsmu_runs/a/state.npz", "mlartifacts/1/model.pt"]
    for machine, files in {"laptop": [*results, "fedsmu_ray/cli.py"], "head": results}.items():
        for each in files:
            (tmp_path / machine / each).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / machine / each).write_text(machine)
    shutil.copy(ROOT / ".gitignore", tmp_path / "laptop")
    config = load(name)
    options = [f"--exclude={pattern}" for pattern in config["rsync_exclude"]]
    options += [f"--filter=dir-merge,- {each}" for each in config["rsync_filter"]]
    command = ["rsync", "-avz", *options, f"{tmp_path}/laptop/", f"{tmp_path}/head/"]
    subprocess.run(command, check=True, capture_output=True)
    assert all((tmp_path / "head" / each).read_text() == "head" for each in results)
    assert (tmp_path / "head/fedsmu_ray/cli.py").read_text() == "laptop"


def pins():
    lines = [line for line in text("constraints.txt").splitlines() if not line.startswith("#")]
    return {(pin := Requirement(line)).name: pin for line in lines}


def test_constraints_pin_what_the_project_allows():
    found, project = pins(), text("pyproject.toml")
    for pin in found.values():
        ((operator, version),) = [(s.operator, s.version) for s in pin.specifier]
        assert operator == "==" and "+" not in version  # no build for one kind of CUDA
    assert not [name for name in found if name.startswith(("nvidia-", "cuda-", "triton"))]
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)[1]
    for line in [*re.findall(r'"(.+?)"', listed), "ray[default]", "optuna>=4,<6"]:
        wanted = Requirement(line)
        (pinned,) = [s.version for s in found[wanted.name].specifier]
        assert pinned in wanted.specifier, line


def test_images_have_the_pinned_ray_and_one_python():
    (ray,) = [s.version for s in pins()["ray"].specifier]
    image = f"rayproject/ray:{ray}-py311-gpu"
    assert f"FROM {image}\n" in text("Dockerfile")
    for name in CLOUDS:
        assert load(name)["docker"]["image"] == image
    (job,) = [
        each
        for each in yaml.safe_load_all(text("clusters/rayjob.yaml"))
        if each["kind"] == "RayJob"
    ]
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray


def test_the_dockerfile_copies_what_the_package_is_built_from(tmp_path):
    copied = re.findall(r"^COPY \S+ (.+) /tmp/fedsmu_ray/(\S*)$", text("Dockerfile"), re.MULTILINE)
    for sources, folder in copied:
        for source in sources.split():
            to = tmp_path / folder if folder else tmp_path / source
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, to)
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(tmp_path)).build(directory=str(tmp_path / "dist"))
    assert Path(wheel).name.startswith("fedsmu_ray-")


def test_the_ray_job_has_a_token_a_volume_and_workers_from_zero():
    claim, job = yaml.safe_load_all(text("clusters/rayjob.yaml"))
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"} and cluster["enableInTreeAutoscaling"]
    head, (worker,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert worker["minReplicas"] == worker["replicas"] == 0
    for group in (head, worker):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        env = {each["name"]: each["value"] for each in container["env"]}
        assert env["FEDSMU_RESULTS"] == mounts["results"] and env["PYTHONPATH"] == mounts["recipe"]
        volumes = {each["name"]: each for each in pod["volumes"]}
        named = volumes["results"]["persistentVolumeClaim"]["claimName"]
        assert named == claim["metadata"]["name"]
        assert mounts["recipe"] in job["spec"]["entrypoint"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]  # trials write checkpoints, too
    assert (
        worker["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    )


def test_the_slurm_script_is_valid():
    subprocess.run(["bash", "-n", ROOT / "clusters/slurm.sh"], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-e", "SC1091", ROOT / "clusters/slurm.sh"], check=True)
