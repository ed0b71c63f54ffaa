"""Training and evaluation mode."""

import pytest
from torch import nn

from fedsmu_ray.models.modes import evaluating, start_training


def net():
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))


def modes(module):
    return [layer.training for layer in module.modules()]


def test_layers_that_were_put_into_evaluation_mode_stay_there():
    module = net()
    module[1].eval()
    assert modes(start_training(module)) == [True, True, False, False, False]


def test_a_whole_module_in_evaluation_mode_is_trained():
    assert all(modes(start_training(net().eval())))


def test_every_layer_gets_its_own_mode_back_after_an_evaluation():
    module = net()
    module[1][1].eval()
    before = modes(module)
    with pytest.raises(KeyError), evaluating(module):
        assert not any(modes(module))
        raise KeyError
    assert modes(module) == before
