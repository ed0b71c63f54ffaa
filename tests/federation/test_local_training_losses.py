"""Local training with other losses: many clients together compute what each computes alone."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.datasets.synthetic import Synthetic
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.trainer import Trainer
from fedsmu_ray.numerics import parameters

LOSSES = {
    "smoothed": ("classes", {"loss": "cross_entropy", "label_smoothing": 0.1}),
    "weighted": ("classes", {"loss": "cross_entropy", "class_weights": [0.5, 0.0, 2.0]}),
    "labels": ("multi_hot", {"loss": "bce_with_logits"}),
    "mse": ("values", {"loss": "mse"}),
    "l1": ("values", {"loss": "l1"}),
    "huber": ("values", {"loss": "huber", "delta": 0.5}),
    "imported": ("values", {"loss": "import:torch.nn:SmoothL1Loss"}),
}
MODULES = {
    "stack": lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 3)),
    "vmap": lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(48), nn.Linear(48, 3)),
    "convolutions": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3)),
}


def trainer_of(kind, task, module, alone=False, **local):
    config = parse(
        {
            "data": {"clients": 4, "partition": {"kind": "quantity_skew", "alpha": 2.0}},
            "task": task,
            "federation": {"cohort": 2},
            "local": {"epochs": 2, "batch_size": 5, "lr": 0.1, **local},
        }
    )
    data = Synthetic((3, 4, 4), classes=3, train=60, test=6, targets=kind)
    problem = Problem.of(config, data.load("images", None, False))
    torch.manual_seed(0)
    device = DeviceData(problem.dataset, torch.device("cpu"))
    probed = replace(problem.probed, plan=None, rows_independent=not alone)
    options = {"probed": probed, "loss": problem.loss}
    return Trainer(MODULES[module](), device, problem.partition, config.local, 0, **options)


def by_autograd(trainer, x, client):
    """Local SGD written with torch.optim and the loss of a whole batch."""
    torch.manual_seed(0)
    batches = trainer.batches(1, torch.tensor([client]))
    y = [piece.clone().requires_grad_() for piece in trainer.layout.views(x)]
    optimizer, losses = torch.optim.SGD(y, 0.1), []
    for index, size in zip(batches.index[0], batches.sizes[0].tolist()):
        inputs, targets = trainer.data.batch(index[:size])
        outputs = parameters.call(trainer.module, trainer.layout.named(y), inputs)
        loss = trainer.loss.of_batch(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.cat([piece.detach().flatten() for piece in y]), sum(losses) / len(losses)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("kind, task", LOSSES.values(), ids=LOSSES)
def test_a_group_trains_as_each_client_alone(kind, task, module):
    local = {"weight_decay": 0.0, "clip_norm": None}
    trainer = trainer_of(kind, task, module, **local)
    assert (trainer.batched is not None) == (module != "convolutions")
    x = parameters.flatten(trainer.module)
    sizes = trainer.partition.sizes
    clients = sizes.argsort(descending=True, stable=True)
    group = GroupSolver(trainer, 1, clients, None)
    together = group.train(x)
    single = trainer_of(kind, task, module, alone=True, **local)
    for row, loss, client in zip(together, group.losses, clients.tolist()):
        wanted, mean = by_autograd(single, x, client)
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-6)
        assert float(loss) == pytest.approx(mean, rel=1e-4)
        alone = GroupSolver(single, 1, torch.tensor([client]), None)
        torch.testing.assert_close(alone.train(x)[0], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind, task", LOSSES.values(), ids=LOSSES)
def test_other_terms_of_the_step_are_as_with_cross_entropy(kind, task):
    """Clipping, decay and a correction take another way than plain steps."""
    trainer = trainer_of(kind, task, "stack", clip_norm=0.1, weight_decay=0.1)
    x, clients = parameters.flatten(trainer.module), torch.tensor([2, 0])
    order = trainer.partition.sizes[clients].argsort(descending=True, stable=True)
    clients = clients[order]
    extra = 0.01 * torch.randn(2, len(x), generator=torch.Generator().manual_seed(1))
    group = GroupSolver(trainer, 1, clients, None).train(x, extra, 0.5)
    for i in range(2):
        alone = GroupSolver(trainer, 1, clients[i : i + 1], None).train(x, extra[i : i + 1], 0.5)
        torch.testing.assert_close(group[i], alone[0], rtol=1e-4, atol=1e-6)
    assert not torch.equal(group[0], x)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("kind, task", LOSSES.values(), ids=LOSSES)
def test_micro_batches_give_the_gradient_of_their_mini_batch(kind, task, module):
    """Batches of five and shorter ones, two samples at a time."""
    whole = trainer_of(kind, task, module, alone=True)
    parts = trainer_of(kind, task, module, micro_batch_size=2)
    assert parts.batched is None
    seen = []
    parts.module.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    x, clients = parameters.flatten(whole.module), torch.tensor([2, 0])
    wanted, found = (GroupSolver(t, 1, clients, None) for t in (whole, parts))
    torch.testing.assert_close(found.train(x), wanted.train(x), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.losses, wanted.losses, rtol=1e-4, atol=1e-6)
    assert set(seen) == {1, 2}
