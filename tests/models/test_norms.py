import pytest
import torch
from torch import nn

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.models.norms import without_batch_norm
from tests.helpers.experiments import inline
from tests.helpers.models import build


class Odd(nn.Module):
    """Batch norm of each kind; one that is used twice, one without weights, one that is lazy."""

    def __init__(self):
        super().__init__()
        self.one, self.three = nn.BatchNorm1d(4), nn.BatchNorm3d(6, affine=False)
        self.two, self.lazy = nn.BatchNorm2d(8, eps=0.1), nn.LazyBatchNorm1d()
        self.again = self.inner = nn.Sequential(self.two)
        self.twice = self.two
        nn.init.constant_(self.two.weight, 0.5)
        self.one.bias.requires_grad_(False)
        self.lazy(torch.zeros(2, 10))


@pytest.mark.parametrize("norm, groups", [("group", 2), ("layer", 1)])
def test_every_batch_norm_is_replaced(norm, groups):
    module = without_batch_norm(Odd(), norm, 2, "odd")
    assert sum(isinstance(m, nn.GroupNorm) for m in module.modules()) == 4 and not any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules()
    )
    assert module.twice is module.two is module.inner[0] is module.again[0]
    assert module.two.num_groups == groups and module.two.eps == 0.1
    assert (module.two.weight == 0.5).all() and not module.one.bias.requires_grad
    assert module.three.weight is None and module.lazy.num_channels == 10
    x = torch.randn(3, 8, 5, 5)
    wanted = nn.functional.group_norm(x, groups, module.two.weight, module.two.bias, 0.1)
    assert torch.equal(module.two(x), wanted)


def test_a_module_that_is_a_batch_norm_itself():
    assert isinstance(without_batch_norm(nn.BatchNorm1d(4), "layer", 2, "odd"), nn.GroupNorm)


def with_batch_norm(shape, classes, channels=8, last=12):
    return nn.Sequential(
        nn.Conv2d(shape[0], channels, 3),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(last),
        nn.BatchNorm1d(last),
        nn.Linear(last, classes),
    )


def without(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


NAME = "import:tests.models.test_norms:with_batch_norm"


def problem_of(**model):
    small = {"rounds": 2, "cohort": 3}
    plain = {"data": {"clients": 10}, "federation": small, "local": {"epochs": 1}}
    return Problem.of(parse({**plain, "model": {"name": NAME, **model}}))


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_users_model_with_batch_norm_is_trained(norm):
    problem = problem_of(norm=norm)
    assert problem.probed.rows_independent and not dict(problem.module().named_buffers())
    records, _, params = inline(problem)
    assert records[-1].test_loss < 3 and len(params) == problem.dim
    bits = records[-1].uplink_bytes / 2 / 3 * 8
    assert problem.dim <= bits <= problem.dim + 8 * 64 + 8


def test_a_users_model_keeps_batch_norm_unless_it_is_asked_for():
    with pytest.raises(ConfigError, match="changes its buffers.*model.norm=group puts them"):
        problem_of()


@pytest.mark.parametrize(
    "model, message",
    [
        ({"norm": "group", "groups": 5}, "layer 1 has 8 channels, .*model.groups to a divisor, or"),
        ({"norm": "group", "groups": 4, "options": {"last": 4}}, "layer 5 .* one channel, whose"),
        ({"norm": "layer", "groups": 4}, "groups = 4: model.norm = layer does not read it"),
        ({"groups": 4}, "groups = 4: model.norm = null does not read it"),
        ({"norm": "batch"}, "model.norm = 'batch': must be group or layer"),
        ({"name": "import:tests.models.test_norms:without", "norm": "group"}, "no batch norm"),
        ({"name": "torchvision:vit_b_16", "norm": "layer", "image_size": 224}, "no batch norm"),
        ({"name": "torchvision:resnet18", "norm": "layer", "groups": 4}, "does not read it"),
        ({"name": "resnet18_gn", "norm": "layer", "groups": 4}, "does not read it"),
        (
            {"name": "mlp", "norm": "group"},
            r"model.norm = 'group': mlp does not read it \(only resnet18_gn, torch",
        ),
    ],
    ids=str,
)
def test_what_is_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        problem_of(**model)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "resnet18_gn"])
def test_models_of_the_package_with_layer_norm_have_the_same_parameters(name):
    group, layer = (build({"name": name, "norm": norm}) for norm in ("group", "layer"))
    norms = [m for m in layer.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 20 and {m.num_groups for m in norms} == {1}
    pairs = zip(group.parameters(), layer.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
