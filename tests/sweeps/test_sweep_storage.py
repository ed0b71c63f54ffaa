"""Sweeps behind a URI: killed at any moment, and resumed on another host."""

import json
import os
import shutil
import signal

import pytest
import yaml

from fedsmu_ray import load_config, run
from fedsmu_ray.files.remote import place
from tests.helpers import brake
from tests.helpers.commands import command
from tests.helpers.storages import s3

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
    assert names == {".lock", "sweep.yaml", "trials.jsonl", "checkpoint-000", "checkpoint-001"}
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
