import pytest
import torch
from torch import nn

from fedsmu_ray.objectives.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    NextToken,
    SquaredError,
)

LOSSES = {
    "plain": (CrossEntropy(), nn.CrossEntropyLoss()),
    "smoothed": (CrossEntropy(0.2), nn.CrossEntropyLoss(label_smoothing=0.2)),
    "weighted": (
        CrossEntropy(0.1, (1.0, 0.0, 5.0)),
        nn.CrossEntropyLoss(torch.tensor([1.0, 0.0, 5.0]), label_smoothing=0.1),
    ),
    "tokens": (NextToken(-1), lambda y, t: nn.CrossEntropyLoss(ignore_index=-1)(y.mT, t)),
    "labels": (BinaryCrossEntropy(), nn.BCEWithLogitsLoss()),
    "mse": (SquaredError(), nn.MSELoss()),
    "l1": (AbsoluteError(), nn.L1Loss()),
    "huber": (Huber(0.3), nn.HuberLoss(delta=0.3)),
}


def batch(loss, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 4, 3) if loss.targets == "tokens" else (count, 3)
    outputs = torch.randn(shape, generator=generator)
    if loss.targets == "classes":
        return outputs, torch.randint(0, 3, (count,), generator=generator)
    if loss.targets == "tokens":
        return outputs, torch.randint(-1, 3, (count, 4), generator=generator)
    targets = torch.randn(shape, generator=generator)
    return outputs, (targets > 0).float() if loss.targets == "multi_hot" else targets


@pytest.mark.parametrize("loss, oracle", LOSSES.values(), ids=LOSSES)
def test_a_batch_has_the_loss_and_gradient_of_pytorch(loss, oracle):
    outputs, targets = batch(loss, 7)
    leaf = outputs.clone().requires_grad_()
    wanted = oracle(leaf, targets)
    (gradient,) = torch.autograd.grad(wanted, leaf)
    torch.testing.assert_close(loss.of_batch(outputs, targets), wanted.detach())
    found, slope = loss.gradient_of_batch(outputs, targets)
    torch.testing.assert_close(found, wanted.detach())
    torch.testing.assert_close(slope, gradient)


@pytest.mark.parametrize("loss, oracle", LOSSES.values(), ids=LOSSES)
def test_batches_of_several_clients_may_be_padded(loss, oracle):
    sizes, parts = [5, 2], [batch(loss, 5, 1), batch(loss, 5, 2)]
    outputs, targets = (torch.stack(each) for each in zip(*parts))
    shares = torch.tensor([[1 / n] * n + [0.0] * (5 - n) for n in sizes])
    losses, slopes = loss.gradient(outputs, targets, shares)
    for i, (n, (y, t)) in enumerate(zip(sizes, parts)):
        alone, slope = loss.gradient_of_batch(y[:n], t[:n])
        torch.testing.assert_close(losses[i], alone)
        torch.testing.assert_close(slopes[i, :n], slope)
        assert not slopes[i, n:].any()


@pytest.mark.parametrize("loss, oracle", LOSSES.values(), ids=LOSSES)
def test_the_loss_of_a_set_does_not_depend_on_its_batches(loss, oracle):
    outputs, targets = batch(loss, 30)
    sums = [loss.sums(outputs[i:j], targets[i:j]) for i, j in ((0, 1), (1, 20), (20, 30))]
    total, weight = (sum(float(x) for x in column) for column in zip(*sums))
    assert total / weight == pytest.approx(float(oracle(outputs, targets)), rel=1e-5)


def test_a_batch_in_which_nothing_counts_has_no_loss_and_no_gradient():
    loss, outputs = NextToken(-1), torch.randn(2, 3, 4)
    targets = torch.full((2, 3), -1)
    for found, slope in (
        loss.gradient_of_batch(outputs, targets),
        loss.gradient(outputs[None], targets[None], torch.full((1, 2), 0.5)),
    ):
        assert float(found.sum()) == 0 and not slope.any()
