"""The digits of scikit-learn."""

import numpy as np
import torch

from fedsmu_ray.datasets.device import DeviceData
from tests.helpers.dataset_files import load


def test_digits_are_normalized_on_the_device():
    data = load("digits")
    assert (len(data.train_y), len(data.test_y)) == (1437, 360)
    assert data.shape == (1, 8, 8) and data.train_x.dtype == np.uint8
    x, y = DeviceData(data, torch.device("cpu")).batch(torch.arange(1437)[None])
    assert x.shape == (1, 1437, 1, 8, 8) and y.shape == (1, 1437)
    assert abs(float(x.mean())) < 1e-4 and abs(float(x.std()) - 1) < 1e-3
