"""Synthetic data: reproducible from the options, with classes of known overlap."""

import numpy as np
import pytest
import torch

from fedsmu_ray.datasets.device import DeviceData
from tests.helpers.dataset_files import load


def synthetic(**options):
    return load("synthetic", **options)


def test_synthetic_data_is_a_function_of_its_options():
    one, two, three = synthetic(train=300), synthetic(train=300), synthetic(train=300, seed=1)
    assert one.train_x.shape == (300, 64) and one.test_x.shape == (2000, 64)
    assert one.train_x.dtype == np.float32 and one.classes == 10
    assert np.array_equal(one.train_x, two.train_x) and np.array_equal(one.test_y, two.test_y)
    assert not np.array_equal(one.train_x, three.train_x)


def test_synthetic_classes_overlap_as_documented():
    """The best classifier knows the class means; here they are estimated from many samples."""
    for separation, low, high in ((0.0, 0.08, 0.12), (3.0, 0.86, 0.92), (6.0, 0.995, 1.0)):
        data = synthetic(train=20_000, test=5000, separation=separation)
        means = np.stack([data.train_x[data.train_y == c].mean(0) for c in range(10)])
        nearest = (data.test_x @ means.T - (means**2).sum(1) / 2).argmax(1)
        assert low <= (nearest == data.test_y).mean() <= high


def test_synthetic_images_are_normalized():
    data = synthetic(shape=[3, 8, 8], train=500, test=20, classes=3)
    assert data.train_x.dtype == np.uint8 and data.is_image
    x, _ = DeviceData(data, torch.device("cpu")).batch(torch.arange(500)[None])
    assert abs(float(x.mean())) < 0.02 and float(x.std()) == pytest.approx(1, abs=0.05)


def test_synthetic_labels_and_values_can_be_learned():
    """By the best linear map; without separation nothing can be."""
    for separation, low, high in ((0.0, -0.1, 0.1), (6.0, 0.9, 1.0)):
        options = {"train": 4000, "test": 1000, "separation": separation, "classes": 4}
        values = synthetic(targets="values", **options)
        weights = np.linalg.lstsq(values.train_x, values.train_y, rcond=None)[0]
        residual = values.test_y - values.test_x @ weights
        assert low <= 1 - residual.var() / values.test_y.var() <= high
        labels = synthetic(targets="multi_hot", **options)
        assert labels.train_y.mean() == pytest.approx(1 / 3, abs=0.02)
        weights = np.linalg.lstsq(labels.train_x, labels.train_y - 0.5, rcond=None)[0]
        guessed = labels.test_x @ weights > 0
        assert abs((guessed == labels.test_y).mean() - (0.88 if separation else 0.5)) < 0.05
