"""Checks of modules: whether they fit the data."""

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.problem import Problem


def problem(name, **more):
    return Problem.of(
        parse({"data": {"clients": 20}, "model": {"name": name, **more}, "local": {"epochs": 1}})
    )


@pytest.mark.parametrize(
    "name, message",
    [
        ("import:tests.helpers.models:batch_norm_mlp", "running statistics|changes its buffers"),
        (
            "import:tests.helpers.models:Counting",
            r"training changes its buffers \(seen\).*GroupNorm or LayerNorm",
        ),
        (
            "import:tests.helpers.models:wrong_head",
            r"returns \[2, 11\] for 2 samples; for the targets of the data it must return",
        ),
        (
            "import:tests.helpers.models:not_a_module",
            "returned a str; it must return a torch.nn.Module",
        ),
        ("import:tests.helpers.models:raising", "raised KeyError: 'weights'"),
        ("import:tests.helpers.models:absent", "has no function or class absent"),
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
