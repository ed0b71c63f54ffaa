"""Several Ray nodes on one machine, with and without the loss of one: same bits as inline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.config.validation import parse
from fedsmu_ray.experiment.resume import resumable
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress
from tests.helpers.experiments import inline_executor

pytestmark = pytest.mark.slow

PLAIN = {
    "data": {"clients": 20},
    "model": {"hidden": [32]},
    "algorithm": {"name": "fedsmu"},
    "local": {"epochs": 1, "batch_size": 20},
    "federation": {"rounds": 12, "cohort": 6, "eval_every": 2},
    "checkpoint": {"every": 3},
    "compute": {"clients_per_task": 1, "cpus_per_actor": 1},
}
METHOD = [
    {
        **PLAIN,
        "algorithm": {"name": name},
        "federation": {"rounds": 3, "cohort": 6, "eval_every": 3},
    }
    for name in METHODS
]


def inline(plain):
    compute = {**PLAIN["compute"], "executor": "inline"}
    executor = inline_executor(problem := Problem.of(parse({**plain, "compute": compute})))
    try:
        history = [
            [r.round, r.train_loss, r.test_accuracy, r.test_loss, r.uplink_bytes, r.dropped]
            for r in resumable(problem, executor, Progress(), None)
        ]
        return history, executor.sha256()
    finally:
        executor.close()


@pytest.fixture(scope="module")
def undisturbed():
    return inline(PLAIN)


def on_nodes(nodes, how, configs, tmp_path, home):
    (tmp_path / "config.json").write_text(json.dumps(configs))
    script = Path(__file__).with_name("three_nodes.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "config.json"), str(nodes), how, "5"],
        cwd=tmp_path,
        text=True,
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["nodes_used"] == nodes and result["alive"] == (
        nodes if how == "none" else nodes - 1
    )
    return result, done.stderr


def test_every_method_on_three_nodes(undisturbed, tmp_path, home):
    result, _ = on_nodes(3, "none", [PLAIN, *METHOD], tmp_path, home)
    assert (result["history"], result["hashes"][0]) == undisturbed
    assert dict(zip(METHODS, result["hashes"][1:])) == {
        name: inline(plain)[1] for name, plain in zip(METHODS, METHOD)
    }


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_node_is_lost(how, undisturbed, tmp_path, home):
    result, said = on_nodes(3, how, [PLAIN], tmp_path, home)
    assert (result["history"], result["hashes"][0]) == undisturbed
    assert "lost" in said, said[-3000:]
