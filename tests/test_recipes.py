"""Recipes on real data: each is loaded, split and checked against its model, as its first seconds would."""

import pytest

from fedsmu_ray.config import load_config, quickstart
from fedsmu_ray.data.datasets import load_dataset
from fedsmu_ray.problem import Problem


@pytest.mark.slow
@pytest.mark.parametrize("recipe, folder, below, parameters", [
    ("shakespeare", "shakespeare/train", "", 133_520),
    ("tiny_imagenet", "tiny-imagenet-200", "", 11_279_112),
    ("cifar10_jpeg", "cifar10-jpeg/train", "cifar10-jpeg", 797_962),
    ("fashion_mnist", "FashionMNIST/raw", "", 573_578),
])
def test_recipe_fits_its_data(recipe, folder, below, parameters, data_root, tmp_path, monkeypatch):
    if not (data_root / folder).is_dir():
        pytest.skip(f"no {folder} in {data_root}")
    monkeypatch.setenv("FEDSMU_CACHE", str(tmp_path))
    config = load_config(quickstart().parent / f"{recipe}.yaml", {"data.root": str(data_root / below)})
    dataset = load_dataset(config.data)
    problem = Problem.of(config, dataset)
    assert problem.dim == parameters and len(problem.partition.sizes) == config.data.clients
    if recipe == "cifar10_jpeg":  # oracle 31: most clients see two to four classes
        from fedsmu_ray.data.__main__ import covering

        assert 2 <= sorted(covering(problem.partition.counts(dataset.train_y, 10)))[50] <= 4
