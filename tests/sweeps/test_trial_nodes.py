"""Trials on a node that has neither the user's files nor the data."""

import json
import sys

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.experiment.run import run
from tests.helpers.two_machines import HEAD, python_on, ray_folder, ray_node, two_machines

pytestmark = pytest.mark.slow

MINE = """
from dataclasses import dataclass
import numpy as np
from torch import nn
from fedsmu_ray.algorithms.fedavg import FedAvg
from beside import WIDTH

@dataclass(frozen=True)
class Method(FedAvg):
    pass

class Net(nn.Sequential):
    pass

def model(shape, classes):
    return Net(nn.Flatten(), nn.Linear(9, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes))

def data(root, samples=60):
    values = np.load(root / "values.npy")[:samples]
    x, y = values[:, :9], np.arange(samples) % 3
    return {"train_x": x[20:], "train_y": y[20:], "test_x": x[:20], "test_y": y[:20]}
"""
CONFIG = {
    "data": {"dataset": "import:mine:data", "root": "files", "clients": 4},
    "model": {"name": "import:mine:model"},
    "algorithm": {"name": "import:mine:Method"},
    "federation": {"rounds": 2, "cohort": 2},
    "tracking": {"uri": None},
    "tune": {
        "space": {"data.options.samples": {"grid": [50, 60]}},
        "baselines": [
            {"data.options.samples": 40, "compute.executor": "inline"},
            {"data.root": "missing"},
        ],
    },
}


def test_what_a_node_lacks_comes_from_the_node_of_the_sweep(tmp_path, monkeypatch):
    import numpy as np

    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    (tmp_path / "mine.yaml").write_text(json.dumps(CONFIG))
    (tmp_path / "files").mkdir()
    values = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32)
    np.save(tmp_path / "files/values.npy", values)
    with two_machines() as machines, ray_folder() as variables:
        head = "--head --port=6379 --num-cpus=0 --include-dashboard=false"
        with (
            ray_node(machines[0], head, variables),
            ray_node(machines[1], f"--address={HEAD} --num-cpus=2", variables, hidden=tmp_path),
        ):
            command = ["-m", "fedsmu_ray.tune", "mine.yaml", "--address", HEAD, "--json"]
            done = python_on(machines[0], command, variables, folder=tmp_path)
    outcome = json.loads(done.stdout.splitlines()[-1])
    (failed,) = outcome["failed"]
    assert "missing" in str(failed), failed
    trials = {trial["params"]["data.options.samples"]: trial for trial in outcome["trials"]}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for samples, trial in trials.items():
        data = {**CONFIG["data"], "options": {"samples": samples}}
        compute = {"executor": "inline"}
        alone = run(parse({**CONFIG, "data": data, "compute": compute, "tune": {}})).summary
        assert trial["model_sha256"] == alone["model_sha256"]
    assert set(trials) == {40, 50, 60}
    for name in ("mine", "beside"):
        del sys.modules[name]
