"""The recipes: each is read and run for one or two rounds."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.statistics import covering
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.experiment.run import run
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.files import recipes
from fedsmu_ray.sweeps import space
from tests.helpers.dataset_files import (
    write_cifar,
    write_hugging_face,
    write_images,
    write_leaf,
    write_mnist,
)

RECIPES = recipes.path("quickstart").parent
DOCS = Path(__file__).parent.parent.parent / "docs"
HERE = {"compute.executor": "inline", "tracking.uri": None}

# Recipe, its folder below $FEDSMU_DATA, data.root relative to that folder, number of parameters,
# and overrides that make two rounds short.
REAL = [
    ("shakespeare", "shakespeare/train", "", 133_520, {"federation.cohort": 2}),
    (
        "tiny_imagenet",
        "tiny-imagenet-200",
        "",
        11_279_112,
        {"data.clients": 1000, "federation.cohort": 2, "local.epochs": 1},
    ),
    (
        "cifar10_jpeg",
        "cifar10-jpeg/train",
        "cifar10-jpeg",
        797_962,
        {"federation.cohort": 2, "local.epochs": 1},
    ),
    ("next_token", "shakespeare/train", "", 133_520, {"federation.cohort": 2}),
    ("fashion_mnist", "FashionMNIST/raw", "", 573_578, {"federation.cohort": 2}),
]
# Recipe and number of parameters. The original files are not always available, so these recipes run
# on small files of the same format.
WRITTEN = [("mnist", 573_578), ("cifar10", 797_962), ("cifar100", 815_332)]
DIGITS = {"quickstart", "bytes_to_target", "weighted_fedavg"}  # run by other tests
SMALL = {
    "regression": 385,
    "multi_label": 4_680,
    "local_optimizers": 4_810,
    "power_of_choice": 4_810,
    "per_client": 4_810,
}  # recipe and number of parameters


def test_every_recipe_is_read_and_has_a_test():
    names = {path.stem for path in RECIPES.glob("*.yaml")}
    for name in names:
        config = load_config(RECIPES / f"{name}.yaml")
        assert config.name.replace("-", "_") == name
    assert {n for n in names if not n.startswith("methods_")} == DIGITS | {*SMALL} | {
        r[0] for r in REAL
    } | {w[0] for w in WRITTEN}


def test_a_recipe_is_read_by_its_name_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("mnist") == load_config(RECIPES / "mnist.yaml")
    assert load_config() == load_config("quickstart")
    (tmp_path / "mnist").write_text("name: of this folder\n")
    assert load_config("mnist").name == "of this folder"


def test_a_module_beside_a_recipe_is_found_from_any_folder(tmp_path, monkeypatch):
    for place in ("beside", "here"):
        (tmp_path / place).mkdir()
        text = f"def model(shape, classes):\n    raise ValueError('{place}')\n"
        (tmp_path / place / "module_of_a_recipe.py").write_text(text)
    (tmp_path / "beside" / "r.yaml").write_text("model: {name: 'import:module_of_a_recipe:model'}")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    config = load_config("../beside/r.yaml")
    with pytest.raises(ConfigError, match="ValueError: beside .*beside/module_of_a_recipe.py:2"):
        Problem.of(config)
    (tmp_path / "here" / "other.yaml").write_text("model: {name: 'import:not_there:model'}")
    here = tmp_path / "here"
    with pytest.raises(ConfigError, match=f"not_there cannot be imported .*searched: {here}, "):
        load_config("other.yaml")


@pytest.mark.parametrize("name", SMALL)
def test_recipe_without_files(name):
    config = load_config(RECIPES / f"{name}.yaml", {**HERE, "federation.rounds": 2})
    summary = run(config).summary
    assert summary["dim"] == SMALL[name] and config.tune.metric.replace("/", "_") in summary


def test_the_settings_of_the_weighted_recipe_differ():
    """Weights and normalized averaging each make another model of the same clients' work."""
    config = load_config("weighted_fedavg", {**HERE, "federation.rounds": 2, "tune.seeds": 1})
    trials = [space.trial_config(config, params) for params in space.list_params(config)]
    found = {(t.method_name, t.federation.weighting): run(t).summary for t in trials}
    assert len(found) == len({s["model_sha256"] for s in found.values()}) == 4
    assert len({s["uplink_bytes"] for s in found.values()}) == 1


@pytest.mark.parametrize("name, parameters", WRITTEN)
def test_recipe_on_files_in_its_format(name, parameters, tmp_path, monkeypatch):
    write_mnist(tmp_path, train=100)
    write_cifar(tmp_path, monkeypatch, per_file=100)
    config = load_config(
        RECIPES / f"{name}.yaml", {**HERE, "data.root": str(tmp_path), "federation.rounds": 1}
    )
    assert config.data.download
    result = run(config)
    assert result.summary["dim"] == parameters and result.summary["uplink_bytes"] == 10 * (
        -(-parameters // 8) + 32
    )


@pytest.mark.slow
@pytest.mark.parametrize("name, folder, below, parameters, shorter", REAL, ids=[r[0] for r in REAL])
def test_recipe_on_real_data(name, folder, below, parameters, shorter, data_root):
    if not (data_root / folder).is_dir():
        pytest.skip(f"no {folder} in {data_root}")
    overrides = {**HERE, "data.root": str(data_root / below), "federation.rounds": 2, **shorter}
    result = run(load_config(RECIPES / f"{name}.yaml", overrides))
    assert result.summary["dim"] == parameters and 0 < result.summary["test_accuracy"] < 1
    if name == "cifar10_jpeg":  # oracle 31: most clients see two to four classes
        problem = result.problem
        assert 2 <= sorted(covering(problem.partition.counts(problem.dataset.train_y, 10)))[50] <= 4


def documented():
    """Every one-line `data:` section in docs/your-own-model.md."""
    text = (DOCS / "your-own-model.md").read_text()
    return [yaml.safe_load(section) for section in re.findall(r"`(\{dataset: .*\})` \|", text)]


def write_documented(name, root):
    """Write a small data set for a documented section, chosen by its `root`."""
    rng = np.random.default_rng(0)
    match name:
        case "photos":
            for split, count in (("train", 12), ("test", 2)):
                for label in ("cat", "dog"):
                    write_images(root / name, split, label, count)
        case "mine.npz":
            np.savez(
                root / name,
                train_x=rng.random((30, 5)),
                train_y=np.arange(30) % 3,
                test_x=rng.random((6, 5)),
                test_y=np.arange(6) % 3,
            )
        case "femnist" | "text":

            def change(plain):
                for user in plain["user_data"].values():
                    codes = [[ord(c) % 4 for c in x] for x in user["x"]]
                    text = name == "text"
                    user["x"] = (
                        ["".join("abc "[c] for c in row) for row in codes] if text else codes
                    )
                    user["y"] = ["abc "[ord(c) % 4] if text else ord(c) % 4 for c in user["y"]]

            write_leaf(root / name, change, splits=("train", "test"))


@pytest.mark.parametrize(
    "data", documented(), ids=lambda data: data["dataset"] + "-" + data.get("root", "")
)
def test_documented_data_sections_run(data, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSMU_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    if data["dataset"].startswith("hf:"):
        write_hugging_face(
            pytest.importorskip("datasets", reason="needs the optional extra hf"),
            tmp_path / "saved",
        )
    write_documented(data.get("root"), tmp_path)
    model = "char_lstm" if data.get("root") == "text" else "linear"
    result = run(
        parse(
            {
                "data": data,
                "model": {"name": model},
                "federation": {"rounds": 1, "cohort": 2},
                "local": {"epochs": 1},
                "compute": {"executor": "inline"},
                "tracking": {"uri": None},
            }
        )
    )
    assert result.summary["rounds"] == 1 and len(result.problem.partition.sizes) == data["clients"]
