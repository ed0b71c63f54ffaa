"""Runs whose result depends on nothing else in the process, and which change nothing there."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.experiment.run import run
from fedsmu_ray.numerics import parameters
from fedsmu_ray.numerics.isolation import generator_states, isolated, seed_generators

MODELS = "import:tests.helpers.random_models:"


DRAWING_FILE = """
import random
import numpy as np, torch
from torch import nn
W = torch.from_numpy(np.random.randn(64, 16)).float()
class Model(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Linear(16, classes)
    def forward(self, x):
        return self.layer(x @ W)
def model(shape, classes):
    return Model(classes)
def data(root):
    x, y = np.random.rand(300, 64), [random.randrange(3) for _ in range(300)]
    return {"train_x": x[50:], "train_y": y[50:], "test_x": x[:50], "test_y": y[:50]}
"""


def config_of(name, options=None, seed=0, **more):
    return parse(
        {
            "seed": seed,
            "data": {"clients": 20, "partition": {"alpha": 1.0}},
            "model": {"name": MODELS + name, "options": options or {}},
            "local": {"epochs": 1, "batch_size": 20},
            "federation": {"rounds": 2, "cohort": 4},
            "tracking": {"uri": None},
            "compute": {"executor": "inline", "clients_per_task": 2},
            **more,
        }
    )


def sha256(config):
    return run(config).summary["model_sha256"]


DROPOUT = ("mixing", {"how": "dropout"})


@pytest.mark.parametrize("place", ["buffer", "other buffer", "parameter", "attribute"])
def test_the_model_that_is_returned_is_the_one_that_was_evaluated(place):
    config = config_of("fixed", {"draw": "numpy", "place": place})
    result = run(config)
    data = DeviceData(result.problem.dataset, torch.device("cpu"))
    inputs, targets = data.test_batch(0, 10**6)
    correct = (result.model().eval()(inputs).argmax(-1) == targets).float().mean()
    assert float(correct) == pytest.approx(result.summary["test_accuracy"])
    np.random.rand()  # so that the next run finds another state
    again = run(config)
    assert again.summary["model_sha256"] == result.summary["model_sha256"]
    x, constants = torch.from_numpy(result.params), parameters.constants(result.model())
    assert result.summary["model_sha256"] == parameters.sha256(x, constants)
    assert (parameters.sha256(x) != parameters.sha256(x, constants)) == (place != "attribute")


def test_the_caller_keeps_its_generators_and_they_do_not_matter():
    hashes = set()
    for seed in (1, 2):
        seed_generators(seed)
        before = generator_states()
        hashes.add(sha256(config_of("noisy", {"how": "numpy"})))
        assert generator_states() == before
    assert len(hashes) == 1
    assert sha256(config_of("noisy", {"how": "numpy"}, seed=1)) not in hashes


def test_settings_of_the_caller_do_not_matter():
    expected = sha256(config_of(*DROPOUT))
    threads = torch.get_num_threads()
    with isolated(0):  # restores what this test sets
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        with np.errstate(all="raise"), torch.inference_mode(), torch.autocast("cpu"):
            assert sha256(config_of(*DROPOUT)) == expected
            assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")
            assert torch.get_default_dtype() == torch.float64
    assert torch.get_num_threads() == threads


def test_a_file_and_a_data_function_that_draw_give_the_same_in_every_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    hashes = set()
    for name in ("one", "other"):  # two files, as a file is imported once
        (tmp_path / f"draws_{name}.py").write_text(DRAWING_FILE)
        seed_generators(len(name))
        before = generator_states()
        data = {"dataset": f"import:draws_{name}:data", "clients": 20}
        model = {"name": f"import:draws_{name}:model"}
        hashes.add(sha256(config_of("", model=model, data=data)))
        assert generator_states() == before
    assert len(hashes) == 1


def test_runs_in_threads_are_those_one_after_another():
    configs = [config_of(*DROPOUT, seed=seed) for seed in (0, 1, 0, 2)]
    alone = [sha256(config) for config in configs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(sha256, configs)) == alone
    assert len(set(alone)) == 3
