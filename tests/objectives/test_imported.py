import logging

import pytest
import torch
import torch.nn.functional as F

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.objectives.imported import ImportedLoss


def per_sample(outputs, targets, power=2.0):
    return (outputs - targets).abs() ** power


def contrastive(outputs, targets):
    return torch.logsumexp((outputs @ outputs.T).flatten(), 0)


def text(outputs, targets):
    return "low"


def whole_batch(outputs, targets):
    return torch.zeros(3)


def loaded(name, **options):
    return ImportedLoss.load(f"import:{name}", options)


def batch(count=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, count, 3, generator=generator).unbind()


@pytest.mark.parametrize(
    "name, options, oracle",
    [
        ("torch.nn:SmoothL1Loss", {"beta": 0.5}, lambda y, t: F.smooth_l1_loss(y, t, beta=0.5)),
        ("torch.nn:MSELoss", {"reduction": "none"}, F.mse_loss),
        ("torch.nn.functional:l1_loss", {}, F.l1_loss),
        (f"{__name__}:per_sample", {"power": 1.0}, F.l1_loss),
    ],
)
def test_a_mean_over_samples_trains_clients_together(name, options, oracle):
    outputs, targets = batch()
    loss = loaded(name, **options).checked(outputs, targets)
    assert loss.has_terms
    wanted, shares = oracle(outputs, targets), torch.full((1, 6), 1 / 6)
    torch.testing.assert_close(loss.of_batch(outputs, targets), wanted)
    torch.testing.assert_close(loss.mean(outputs[None], targets[None], shares)[0], wanted)
    total, weight = loss.sums(outputs, targets)
    torch.testing.assert_close(total / weight, wanted)


def test_a_loss_of_the_whole_batch_is_told_to_train_clients_one_by_one(caplog):
    caplog.set_level(logging.WARNING)
    loss = loaded(f"{__name__}:contrastive").checked(*batch())
    assert not loss.has_terms and "clients are trained one by one" in caplog.text


@pytest.mark.parametrize(
    "name, options, problem",
    [
        (f"{__name__}:text", {}, "it returned a str"),
        (f"{__name__}:whole_batch", {}, r"it returned \[3\] for a batch of 6"),
        ("torch.nn:MSELoss", {"reductoin": "none"}, "takes no option reductoin"),
        ("torch.nn:MSEloss", {}, "did you mean MSELoss"),
    ],
)
def test_what_is_no_loss_is_refused(name, options, problem):
    with pytest.raises(ConfigError, match=f"task.loss = import:{name}.*{problem}"):
        loaded(name, **options).checked(*batch())
