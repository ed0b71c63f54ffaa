"""Models: the published parameter counts, seeds, what is refused, and how each is trained."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fedsmu_ray.config.schema import ModelConfig
from fedsmu_ray.config.validation import load_config, parse
from fedsmu_ray.datasets.arrays import from_arrays
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.models import registry
from fedsmu_ray.numerics import parameters

CIFAR, IMAGENET, TEXT = (3, 32, 32), (3, 224, 224), (80,)
# model options, sample shape, classes, parameters, parameter tensors
COUNTS = [
    ({"name": "lenet"}, CIFAR, 10, 797_962, 10),
    ({"name": "lenet"}, CIFAR, 100, 815_332, 10),
    ({"name": "lenet", "filters": 128}, CIFAR, 10, 1_724_490, 10),
    ({"name": "resnet18_gn"}, CIFAR, 10, 11_181_642, 62),
    ({"name": "resnet18_gn"}, CIFAR, 100, 11_227_812, 62),
    ({"name": "resnet18_gn"}, (3, 64, 64), 200, 11_279_112, 62),
    ({"name": "resnet18_gn", "stem": "cifar"}, CIFAR, 10, 11_173_962, 62),
    ({"name": "vit_s"}, CIFAR, 10, 21_342_346, 152),
    ({"name": "vit_s"}, CIFAR, 100, 21_376_996, 152),
    ({"name": "vit_s", "patch": 8}, CIFAR, 10, 21_379_210, 152),
    ({"name": "vit_s", "patch": 8}, CIFAR, 100, 21_413_860, 152),
    ({"name": "vit_s", "patch": 16}, IMAGENET, 10, 21_669_514, 152),
    ({"name": "vit_s", "patch": 16, "image_size": 224}, CIFAR, 100, 21_704_164, 152),
    ({"name": "char_lstm"}, TEXT, 80, 133_520, 11),
    ({"name": "linear"}, (1, 28, 28), 10, 7_850, 2),
    ({"name": "mlp"}, (1, 28, 28), 10, 199_210, 6),
]


def build(options, shape=CIFAR, classes=10, seed=0):
    return registry.build(
        ModelConfig(**options), shape, classes, seed, symbols=80 if shape == TEXT else None
    )


@pytest.mark.parametrize("options, shape, classes, count, tensors", COUNTS, ids=str)
def test_parameter_counts(options, shape, classes, count, tensors):  # oracle 34
    layout = parameters.Layout.of(build(options, shape, classes))
    assert (layout.dim, len(layout.names)) == (count, tensors)


@pytest.mark.parametrize("filters, count", [(64, 797_248), (128, 1_723_648)])
def test_the_papers_dimensions_count_weights_without_biases(filters, count):  # oracle 34
    module = build({"name": "lenet", "filters": filters})
    assert (
        sum(p.numel() for name, p in module.named_parameters() if name.endswith("weight")) == count
    )


@pytest.mark.parametrize(
    "options, shape",
    [
        ({"name": "lenet"}, CIFAR),
        ({"name": "resnet18_gn"}, CIFAR),
        ({"name": "char_lstm"}, TEXT),
        ({"name": "torchvision:mobilenet_v3_small"}, CIFAR),
    ],
    ids=str,
)
def test_initialisation_depends_on_the_seed_alone(options, shape):
    state = torch.get_rng_state()
    one = parameters.flatten(build(options, shape, 80, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(one, parameters.flatten(build(options, shape, 80, seed=3)))
    assert not torch.equal(one, parameters.flatten(build(options, shape, 80, seed=4)))
    assert torch.isfinite(one).all()


def inputs_of(shape, n=2):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randint(80, (n, *shape), generator=g)
        if shape == TEXT
        else torch.randn(n, *shape, generator=g)
    )


@pytest.mark.parametrize(
    "options, shape",
    [
        ({"name": "linear"}, CIFAR),
        ({"name": "lenet"}, CIFAR),
        ({"name": "resnet18_gn", "stem": "cifar"}, (1, 16, 16)),
        ({"name": "vit_s", "patch": 8}, CIFAR),
        ({"name": "char_lstm"}, TEXT),
    ],
    ids=str,
)
def test_gradients_reach_the_vector(options, shape):
    """functional_call on views of the vector gives the module's own outputs and gradients."""
    module = build(options, shape, 80)
    layout, x, inputs = (
        parameters.Layout.of(module),
        parameters.flatten(module).requires_grad_(),
        inputs_of(shape),
    )
    outputs = functional_call(module, layout.named(layout.views(x)), inputs)
    torch.testing.assert_close(outputs, module(inputs))
    targets = torch.tensor([1, 7])
    (got,) = torch.autograd.grad(nn.functional.cross_entropy(outputs, targets), x)
    nn.functional.cross_entropy(module(inputs), targets).backward()
    torch.testing.assert_close(
        got, torch.cat([p.grad.reshape(-1) for p in module.parameters()]), rtol=1e-4, atol=1e-6
    )


def test_which_models_train_clients_together():
    for options, shape, together in [
        ({"name": "mlp"}, CIFAR, True),
        ({"name": "lenet"}, CIFAR, False),
        ({"name": "char_lstm"}, TEXT, False),
    ]:
        assert registry.batches_clients(build(options, shape, 80), inputs_of(shape)) == together
    plain = inputs_of((4,))
    assert registry.batches_clients(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), plain)
    assert not registry.batches_clients(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), plain)
    assert not registry.batches_clients(nn.GRU(4, 4), plain)


def dropout_mlp(shape, classes, width=16, p=0.5):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(p), nn.Linear(width, classes)
    )


def batch_norm_mlp(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))


class Counting(nn.Module):
    def __init__(self, shape=None, classes=10):
        super().__init__()
        self.layer = nn.Linear(64, classes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += len(x)
        return self.layer(x.flatten(1))


def wrong_head(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes + 1))


def not_a_module(shape, classes):
    return "a model"


def raising(shape, classes):
    raise KeyError("weights")


def problem(name, **more):
    return Problem.of(
        parse({"data": {"clients": 20}, "model": {"name": name, **more}, "local": {"epochs": 1}})
    )


def test_a_users_own_model():
    own = problem("import:test_models:dropout_mlp", options={"width": 8})
    assert own.dim == 65 * 8 + 9 * 10
    assert own.group_size == 1  # dropout draws belong to a client, so clients train one by one


@pytest.mark.parametrize(
    "name, message",
    [
        ("import:test_models:batch_norm_mlp", "running statistics|changes its buffers"),
        (
            "import:test_models:Counting",
            r"training changes its buffers \(seen\).*GroupNorm or LayerNorm",
        ),
        (
            "import:test_models:wrong_head",
            r"returns \[2, 11\] for 2 samples; the data has 10 classes, so it must return logits",
        ),
        ("import:test_models:not_a_module", "returned a str; it must return a torch.nn.Module"),
        ("import:test_models:raising", "raised KeyError: 'weights'"),
        ("import:test_models:absent", "has no function absent"),
        ("import:no_such_module:f", "no_such_module cannot be imported.*PYTHONPATH"),
        (
            "torchvision:resnet19",
            "torchvision has no classification model resnet19; it has .*resnet18",
        ),
        ("torchvision:vgg11", "cannot take inputs|needs images|data has"),
        ("char_lstm", "the data has no tokens"),
        ("lenet", "needs images .* of at least 16x16 pixels"),
    ],
)
def test_what_does_not_fit_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        problem(name)


def test_a_module_that_raises_when_imported_is_told_of(tmp_path, monkeypatch):
    (tmp_path / "half_written.py").write_text("def model(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="importing half_written raised SyntaxError: "):
        problem("import:half_written:model")


def test_torchvision_models_get_group_norm():
    module = build(
        {"name": "torchvision:mobilenet_v3_small", "options": {"width_mult": 0.5}}, (1, 32, 32)
    )
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
    assert any(isinstance(m, nn.GroupNorm) for m in module.modules())
    registry.check(module, torch.randn(2, 1, 32, 32), 10, "mobilenet")
    with pytest.raises(ConfigError, match="channels, which do not form 3 groups.*set model.groups"):
        build({"name": "torchvision:resnet18", "groups": 3})
    with pytest.raises(ConfigError, match="aux_logits"):
        registry.check(
            build({"name": "torchvision:googlenet"}), torch.randn(2, 3, 32, 32), 10, "googlenet"
        )


@pytest.mark.parametrize(
    "model, message",
    [
        (
            {"name": "lenet", "hidden": [10]},
            r"model.hidden = \(10,\): lenet does not read it \(only mlp\); remove it",
        ),
        ({"name": "mlp", "stem": "cifar"}, "model.stem = 'cifar': mlp does not read it"),
        ({"name": "lennet"}, "model.name = 'lennet': must be one of .* did you mean lenet"),
        ({"name": "import:nothing"}, "model.name = 'import:nothing': must be one of"),
    ],
)
def test_model_options_are_checked(model, message):
    with pytest.raises(ConfigError, match=message):
        parse({"model": model})


def test_defaults_are_spelled_out_and_survive_a_round_trip():
    config = parse({"model": {"name": "resnet18_gn"}})
    assert (config.model.stem, config.model.groups, config.model.hidden) == ("imagenet", 2, None)
    assert parse(config.to_dict()) == config
    assert load_config(None).model.hidden == (200, 200)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "vit_s", "patch": 5}, "model.patch = 5: images of 32x32 .* divisor of 32"),
        ({"name": "resnet18_gn", "groups": 3}, "model.groups = 3"),
    ],
)
def test_impossible_sizes(options, message):
    with pytest.raises(ConfigError, match=message):
        build(options)


def test_tokens_need_a_model_for_tokens():
    x = torch.arange(40).reshape(8, 5).numpy() % 7
    data = from_arrays(
        "own", {"train_x": x, "train_y": x[:, 0], "test_x": x, "test_y": x[:, 0]}, "own"
    )
    assert isinstance(data, Dataset) and data.symbols == 7
    few = {"data": {"clients": 2}, "federation": {"cohort": 1}}
    with pytest.raises(ConfigError, match="the data has tokens; use model.name=char_lstm"):
        Problem.of(parse({**few, "model": {"name": "mlp"}}), data)
    assert Problem.of(parse({**few, "model": {"name": "char_lstm"}}), data).dim
