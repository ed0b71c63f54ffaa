"""Functions, classes, modules and data that are passed in place of names."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from fedsmu_ray import load_config, plugins, run
from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.experiment.model_file import TrainedModel
from fedsmu_ray.numerics import parameters
from fedsmu_ray.sweeps import space

BASE = {
    "data": {"clients": 10},
    "federation": {"rounds": 2, "cohort": 3},
    "tracking": {"uri": None},
    "compute": {"executor": "inline"},
}
X = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
ARRAYS = {"train_x": X, "train_y": (X.sum(1) > 0).astype(np.int64)}
ARRAYS |= {"test_x": X[:50], "test_y": ARRAYS["train_y"][:50]}


def net(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def other_net(shape, classes):
    return net(shape, classes)


def sha256(**sections):
    return run(load_config({**BASE, **sections})).summary["model_sha256"]


def test_a_function_of_a_module_has_the_name_of_its_import():
    name = f"import:{__name__}:net"
    config = load_config({**BASE, "model": {"name": net}})
    assert config.model_name == name and config == load_config({**BASE, "model": {"name": name}})
    assert load_config(BASE, {"model.name": net}) == config


def test_any_other_function_trains_the_same_model():
    inner = load_config({**BASE, "model": {"name": lambda shape, classes: net(shape, classes)}})
    assert inner.model_name.startswith("import:in_memory:lambda")
    assert run(inner).summary["model_sha256"] == sha256(model={"name": net})
    assert parse(inner.to_dict()) == inner


def test_training_begins_at_the_parameters_of_a_module_and_does_not_change_it():
    torch.manual_seed(5)
    module = net((64,), 10)
    before = parameters.sha256(parameters.flatten(module))
    config = load_config({**BASE, "model": {"name": module}, "seed": 3})
    result = run(config)
    assert parameters.sha256(result.problem.initial()) == before
    assert parameters.sha256(parameters.flatten(module)) == before != result.summary["model_sha256"]
    torch.nn.init.zeros_(module[1].weight)  # too late to matter
    assert run(config).summary["model_sha256"] == result.summary["model_sha256"]


@pytest.mark.parametrize("kind", ["arrays", "dataset", "function"])
def test_data_is_given_as_arrays_a_data_set_or_a_function(tmp_path, kind):
    data = Dataset("mine", **ARRAYS, classes=2) if kind == "dataset" else ARRAYS
    data = (lambda root: ARRAYS) if kind == "function" else data
    np.savez(tmp_path / "mine.npz", **ARRAYS)
    of_file = {"dataset": "npz", "root": str(tmp_path / "mine.npz"), "clients": 10}
    model = {"name": "linear"}
    assert sha256(data={"dataset": data, "clients": 10}, model=model) == sha256(
        data=of_file, model=model
    )


def test_a_method_is_a_class():
    @dataclass(frozen=True)
    class Mine(FedAvg):
        """FedAvg by another name."""

    assert sha256(algorithm={"name": Mine}) == sha256(algorithm={"name": "fedavg"})


def test_objects_are_swept():
    names = {"model.name": [net, other_net, net((64,), 10), "linear"]}
    config = load_config({**BASE, "tune": {"space": names, "baselines": [{"model.name": net}]}})
    space.check(config)
    found = [params["model.name"] for params in space.list_settings(config)]
    assert found[:3] == [f"import:{__name__}:{name}" for name in ("net", "net", "other_net")]
    assert found[3].startswith("import:in_memory:Sequential") and found[4] == "linear"


def test_an_object_of_another_process_is_asked_for_again(monkeypatch):
    config = load_config({**BASE, "model": {"name": lambda shape, classes: net(shape, classes)}})
    monkeypatch.setattr(plugins, "_in_memory", {})
    with pytest.raises(ConfigError, match="model.name = import:in_memory:lambda.*pass it again"):
        parse(config.to_dict())


def test_a_model_or_method_may_stand_in_place_of_its_section():
    assert load_config({**BASE, "model": net}) == load_config({**BASE, "model": {"name": net}})
    assert load_config({**BASE, "algorithm": FedAvg}).algorithm == FedAvg()


def test_a_class_of_a_model_without_arguments_is_to_be_an_instance():
    class Net(nn.Module):
        """A model as they are usually written."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x.flatten(1))

    with pytest.raises(ConfigError, match=r"model.name = Net: .* pass an instance, Net\(\)"):
        load_config({**BASE, "model": {"name": Net}})
    assert run(load_config({**BASE, "model": Net()})).summary["dim"] == 650


def test_what_cannot_stand_in_place_of_a_name_is_refused():
    options = {"model": {"name": net, "options": {"layer": nn.ReLU}}}
    for wrong in ({"local": {"lr": net}}, options, {"tune": {"space": {"local.lr": [net]}}}):
        with pytest.raises(ConfigError, match="(lr|layer) = <.*must be text, a number, true"):
            load_config(wrong)
    with pytest.raises(ConfigError, match="data.dataset = import:in_memory:arrays.*train_y"):
        run(load_config({**BASE, "data": {"dataset": {"train_x": X}}}))
    with pytest.raises(ConfigError, match="algorithm.name = .*net"):
        load_config({"algorithm": {"name": net}})


def test_the_model_of_a_module_is_kept_with_its_weights():
    result = run(load_config({**BASE, "model": {"name": net((64,), 10)}}))
    kept = TrainedModel.of(result.problem, result.params)
    assert kept.model_sha256 == result.summary["model_sha256"]
    module = pickle.loads(pickle.dumps(result.model()))
    assert torch.equal(parameters.flatten(module), torch.from_numpy(result.params))
