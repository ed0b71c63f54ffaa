"""torchvision's models with group norm in place of batch norm."""

import pytest
import torch
from torch import nn

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models import checks
from tests.helpers.models import build


def test_torchvision_models_get_group_norm():
    module = build(
        {"name": "torchvision:mobilenet_v3_small", "options": {"width_mult": 0.5}}, (1, 32, 32)
    )
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
    assert any(isinstance(m, nn.GroupNorm) for m in module.modules())
    checks.check(module, torch.randn(2, 1, 32, 32), (10,), "mobilenet")
    with pytest.raises(ConfigError, match="channels, which do not form 3 groups.*set model.groups"):
        build({"name": "torchvision:resnet18", "groups": 3})
    with pytest.raises(ConfigError, match="aux_logits"):
        checks.check(
            build({"name": "torchvision:googlenet"}), torch.randn(2, 3, 32, 32), (10,), "googlenet"
        )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weights": "DEFAULT"}, "model.options.weights = DEFAULT: .* start untrained.*import:"),
        ({"pretrained": True}, "model.options.pretrained = True: .*remove it"),
        ({"num_classes": 11}, "model.options.num_classes = 11: the data has 10 classes; remove it"),
        ({"name": "resnet18"}, "name = torchvision:resnet18: it raised TypeError.* 'name'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build({"name": "torchvision:resnet18", "options": options})


def test_options_that_change_nothing_are_taken():
    options = {"num_classes": 10, "weights": None, "progress": False}
    assert build({"name": "torchvision:resnet18", "options": options}).net.fc.out_features == 10
