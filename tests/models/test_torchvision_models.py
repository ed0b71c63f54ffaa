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
    checks.check(module, torch.randn(2, 1, 32, 32), 10, "mobilenet")
    with pytest.raises(ConfigError, match="channels, which do not form 3 groups.*set model.groups"):
        build({"name": "torchvision:resnet18", "groups": 3})
    with pytest.raises(ConfigError, match="aux_logits"):
        checks.check(
            build({"name": "torchvision:googlenet"}), torch.randn(2, 3, 32, 32), 10, "googlenet"
        )
