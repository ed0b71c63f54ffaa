"""The optimizers of local training, compared with those of torch.optim."""

import pytest
import torch

from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.updates import update_of
from fedsmu_ray.numerics import parameters
from tests.federation.test_local_training_losses import MODULES, trainer_of


class Lion(torch.optim.Optimizer):
    """Lion as in Algorithm 2 of Chen et al. (2023); torch.optim has none."""

    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                update = torch.sign(beta1 * m + (1 - beta1) * p.grad)
                p -= lr * (update + group["weight_decay"] * p)
                m.copy_(beta2 * m + (1 - beta2) * p.grad)


OPTIMIZERS = {
    "momentum": ({"momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (
        {"momentum": 0.8, "nesterov": True},
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True},
    ),
    "adam": ({"name": "adam"}, torch.optim.Adam, {}),
    "adam without averages": (
        {"name": "adam", "beta1": 0.0, "beta2": 0.0, "epsilon": 0.1},
        torch.optim.Adam,
        {"betas": (0.0, 0.0), "eps": 0.1},
    ),
    "adamw": (
        {"name": "adamw", "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3},
        torch.optim.AdamW,
        {"betas": (0.8, 0.95), "eps": 1e-3},
    ),
    "lion": ({"name": "lion"}, Lion, {}),
    "lion of other betas": (
        {"name": "lion", "beta1": 0.5, "beta2": 0.6},
        Lion,
        {"betas": (0.5, 0.6)},
    ),
}
RATE, DECAY, CLIP, PROX = 0.01, 0.1, 0.5, 0.3


def reference(trainer, optimizer, options, x, client, correction):
    """Local training of one client with an optimizer of torch.optim."""
    batches = trainer.batches(1, torch.tensor([client]))
    y = x.clone().requires_grad_()
    optimizer = optimizer([y], RATE, weight_decay=DECAY, **options)
    for index, size in zip(batches.index[0], batches.sizes[0].tolist()):
        inputs, targets = trainer.data.batch(index[:size])
        params = trainer.layout.named(trainer.layout.views(y))
        outputs = parameters.call(trainer.module, params, inputs)
        optimizer.zero_grad()
        trainer.loss.of_batch(outputs, targets).backward()
        with torch.no_grad():
            y.grad += correction + PROX * (y - x)
        torch.nn.utils.clip_grad_norm_([y], CLIP)
        optimizer.step()
    return y.detach()


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("given, optimizer, options", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_are_those_of_pytorch_in_any_group(module, given, optimizer, options):
    """With clients that make different numbers of steps, and all terms of a step."""
    local = {"lr": RATE, "weight_decay": DECAY, "clip_norm": CLIP, "optimizer": given}
    task = {"loss": "cross_entropy", "label_smoothing": 0.1}
    trainer = trainer_of("classes", task, module, **local)
    x = parameters.flatten(trainer.module)
    correction = 0.1 * torch.randn(4, len(x), generator=torch.Generator().manual_seed(0))
    clients = trainer.partition.sizes.argsort(descending=True, stable=True)
    group = GroupSolver(trainer, 1, clients, None)
    assert len(set(group.steps.flatten().tolist())) > 2
    together = group.train(x, correction, PROX)
    single = trainer_of("classes", task, module, alone=True, **local)
    for row, own, client in zip(together, correction, clients):
        wanted = reference(single, optimizer, options, x, int(client), own)
        alone = GroupSolver(single, 1, client[None], None).train(x, own[None], PROX)[0]
        for found in (row, alone):
            # A sign or a quotient near zero hangs on rounding.
            far = ((found - wanted).abs() > 1e-5 + 1e-3 * wanted.abs()).float().mean()
            assert far <= (0.02 if "lion" in str(given) else 0.01), float(far)
            assert float((wanted - x).norm()) > 10 * float((found - wanted).norm())


def test_the_state_of_an_optimizer_is_new_in_every_round():
    trainer = trainer_of("classes", {}, "stack", optimizer={"name": "adam"})
    x, clients = parameters.flatten(trainer.module), torch.tensor([0])
    once, again = (GroupSolver(trainer, 1, clients, None).train(x) for _ in range(2))
    assert torch.equal(once, again)


def test_equal_settings_give_equal_updates():
    """By which a captured step is found again."""
    local = trainer_of("classes", {}, "stack", optimizer={"name": "adam"}).local
    assert update_of(local, 0.1, 0.0, False) == update_of(local, 0.1, 0.0, False)
    assert update_of(local, 0.1, 0.0, False) != update_of(local, 0.2, 0.0, False)
