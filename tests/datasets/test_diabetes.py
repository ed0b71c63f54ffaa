"""The diabetes data of scikit-learn."""

import numpy as np
from sklearn.datasets import load_diabetes

from tests.helpers.dataset_files import load


def test_diabetes_is_that_of_scikit_learn_standardized():
    data, (x, y) = load("diabetes"), load_diabetes(return_X_y=True, scaled=False)
    assert data.train_x.shape == (353, 10) and data.test_y.shape == (89, 1)
    assert (data.targets, data.classes) == ("values", 1)
    for train, test, whole in (
        (data.train_x, data.test_x, x),
        (data.train_y, data.test_y, y[:, None]),
    ):
        np.testing.assert_allclose(train.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(train.std(0), 1, atol=1e-5)
        mean, std = whole[np.arange(442) % 5 > 0].mean(0), whole[np.arange(442) % 5 > 0].std(0)
        np.testing.assert_allclose(test * std + mean, whole[::5], rtol=1e-4, atol=1e-3)
