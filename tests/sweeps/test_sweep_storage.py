"""Where the folder of a sweep is: behind a URI, seen by all nodes, or only by that of the sweep."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from fedsmu_ray import load_config, run
from fedsmu_ray.files.remote import place
from tests.helpers import brake
from tests.helpers.commands import command
from tests.helpers.storages import s3
from tests.helpers.two_machines import HEAD, ray_folder, ray_node, two_machines

__all__ = ["s3"]

SMALL = {
    "name": "small",
    "data": {"clients": 20},
    "model": {"hidden": [16]},
    "local": {"epochs": 1, "batch_size": 50, "lr": 0.2},
    "federation": {"rounds": 12, "cohort": 5, "eval_every": 2},
    "compute": {"actors": 1, "cpus_per_actor": 0.5},
    "checkpoint": {"every": 2},
    "tracking": {"uri": None},
    "algorithm": {"name": brake.METHOD},
    "tune": {"space": {"algorithm.gamma1": {"grid": [0.01, 0.02]}}, "concurrent": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_killed_sweep_is_resumed_by_another_host(kind, tmp_path, request):
    if kind == "s3":
        uri = request.getfixturevalue("s3").uri(tmp_path.name)
    else:
        uri = f"local://{tmp_path}/stored"
    host = tmp_path / "host"
    host.mkdir()
    (host / "small.yaml").write_text(yaml.safe_dump(SMALL))
    brakes = brake.Brake(host, 17)
    with command(host, "tune", "small.yaml", f"tune.storage={uri}") as process:
        brakes.wait(process)  # in round 6 of the second trial
        os.kill(process.pid, signal.SIGKILL)
    (folder,) = place(uri).iterdir()
    names = {path.name for path in folder.iterdir()}
    written = {".lock", "sweep.yaml", "trials.jsonl", "checkpoint-000", "checkpoint-001"}
    assert {n for n in names if not n.startswith("model-")} == {*written, "import_path"}
    assert {path.name for path in (host / "fedsmu_runs").iterdir()} == {folder.name}  # of Tune
    other = tmp_path / "other"
    other.mkdir()
    shutil.move(host / "braked.py", other)
    steps = int((brakes.folder / "steps").read_text())
    brakes.release()
    with command(other, "tune", "--resume", str(folder), "--json", "--profile") as process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    result = json.loads(out.splitlines()[-1])
    assert result["folder"] == str(folder) and f"a trace of each trial: {folder / 'profile'}" in out
    assert int((brakes.folder / "steps").read_text()) < steps + 12  # not again from round 1
    for trial in result["trials"]:
        own = {**trial["params"], "algorithm.name": "fedsmu", "compute.executor": "inline"}
        same = run(load_config(other_yaml(other), {**own, "checkpoint.every": None})).summary
        assert trial["model_sha256"] == same["model_sha256"]


def other_yaml(folder):
    path = folder / "plain.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "algorithm": {"name": "fedsmu"}}))
    return path


def on_head(machine, variables, folder):
    """A sweep that is being run on the head of a cluster."""
    tune = ["-m", "fedsmu_ray.tune", "small.yaml", "--address", HEAD, "--json"]
    return subprocess.Popen(
        ["ip", "netns", "exec", machine, sys.executable, *tune],
        env=variables,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


HEAD_NODE = "--head --port=6379 --num-cpus=0 --include-dashboard=false"
WORKER_NODE = f"--address={HEAD} --num-cpus=1"


@pytest.mark.slow
def test_a_trial_goes_on_from_its_checkpoint_on_another_node(tmp_path):
    """The node is killed in round 6 of the first trial; both see the folder of the sweep."""
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    brakes = brake.Brake(tmp_path, 5)
    with two_machines() as machines, ray_folder() as own, ray_node(machines[0], HEAD_NODE, own):
        with ray_node(machines[1], WORKER_NODE, own):
            process = on_head(machines[0], own, tmp_path)
            brakes.wait(process)
        brakes.release()
        with ray_node(machines[1], WORKER_NODE, own):
            out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "starts again from its last checkpoint, 1 of at most 2 times" in err
    assert "does not see" not in err and len(json.loads(out.splitlines()[-1])["trials"]) == 2
    assert int((brakes.folder / "steps").read_text()) < 2 * 12 + 5  # not again from round 1


@pytest.mark.slow
def test_checkpoints_on_a_node_that_does_not_see_the_sweep_are_told_once(tmp_path):
    plain = {**SMALL, "algorithm": {"name": "fedsmu"}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(plain))
    with (
        two_machines() as machines,
        ray_folder() as own,
        ray_node(machines[0], HEAD_NODE, own),
        ray_node(machines[1], WORKER_NODE, own, hidden=tmp_path),
    ):
        process = on_head(machines[0], own, tmp_path)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert err.count("does not see the folder of the sweep: a trial that moves") == 1
    assert not [*tmp_path.glob("fedsmu_runs/*/checkpoint-*")]
