"""What cannot be known of a user's module without trying it.

The program builds a module in every process, uses it for many clients, and pads their batches. So
it has to be the same whenever it is built, compute the same whatever it has computed before, and it
matters whether the samples of a batch affect each other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsmu_ray import plugins
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models.batched import Batched
from fedsmu_ray.models.modes import evaluating
from fedsmu_ray.numerics import parameters
from fedsmu_ray.numerics.isolation import generator_states, isolated, seed_generators

log = logging.getLogger(__name__)

SAMPLES = 8  # that the probes take
_ROWS = SAMPLES // 2  # of a batch
_SAME_SIZE = 1e-5  # tolerance, relative to the largest output, between batches of the same size,
_OTHER_SIZE = 1e-3  # and of different sizes, whose sums are rounded differently
_CURE = (
    "draw from the process-wide generators of PyTorch, NumPy or Python, which are seeded with "
    "`seed`, and neither from np.random.default_rng() without a seed nor from the time, a process "
    "id or a file that changes"
)


@dataclass(frozen=True)
class Plan:
    """How a module computes fastest on one kind of device."""

    device: str  # "cpu" or "cuda"
    positions: float  # see `costs.positions`
    batched: Batched | None  # how several clients train at once; None if they cannot


@dataclass(frozen=True)
class Probed:
    """What is known of a model from trying it, in the form that all processes get."""

    # Buffers and frozen parameters by name: other processes take these instead of their own. None
    # before a module was built.
    constants: Mapping[str, Tensor] | None = None
    # Samples, and what a new module makes of them in evaluation: other processes compare theirs.
    reference: tuple[Tensor, Tensor] | None = None
    rows_independent: bool = True  # whether the samples of a batch do not affect each other
    plan: Plan | None = None  # for the CPU; None before a module was trained
    sizes: tuple[int, ...] = ()  # of the trainable parameters, in the order of the layout

    def digests(self) -> dict[str, str]:
        """The digest of every constant, by name."""
        constants = self.constants or {}
        return {name: parameters.digest(value) for name, value in constants.items()}

    def restored(self, module: nn.Module, name: str) -> nn.Module:
        """A module that was built anew, with the constants of the one that was probed.

        name: `model.name`. Raises ConfigError if it is not the same model.
        """
        again = f"model.name = {name}: built in another process, or once more,"
        if self.constants is not None:
            try:
                parameters.load_constants(module, self.constants)
            except ValueError as error:
                raise ConfigError([f"{again} {error}; {_CURE}"]) from None
        if self.reference is not None:
            inputs, outputs = self.reference
            with isolated(0):
                found = _outputs(module, inputs, f"model.name = {name}", training=False)
            if not _near(found, outputs, _OTHER_SIZE * float(outputs.abs().max())):
                raise ConfigError(
                    [f"{again} it computes different outputs from equal inputs; {_CURE}"]
                )
        return module


def probe(build: Callable[[], nn.Module], inputs: Tensor, name: str) -> Probed:
    """Try a module of the user's.

    build: makes a new module from the seed. inputs: SAMPLES samples as the model gets them. name:
    `model.name`. Raises ConfigError for a model that is not the same wherever it is built or
    whenever it is used.
    """
    where = f"model.name = {name}"
    check_repeatable(build, inputs, where)
    independent = rows_are_independent(build(), inputs, where)
    if not independent:
        log.warning(
            "%s: the samples of a batch affect each other (as with batch norm without running "
            "statistics, which model.norm=group replaces), so clients are trained one by one, and "
            "test accuracy and loss depend on the order of the test set",
            where,
        )
    module, few = build(), inputs[:2]
    with isolated(0):
        reference = few, _outputs(module, few, where, training=False)
    return Probed(parameters.constants(module), reference, independent)


def check_repeatable(build: Callable[[], nn.Module], inputs: Tensor, where: str) -> None:
    """Check that modules built from one seed are equal, and stay so when they are used.

    inputs: SAMPLES samples as the model gets them. where: `model.name = ...`, for the message.
    Raises ConfigError.
    """
    one, two = build(), build()
    if different := _different(one, two):
        raise ConfigError(
            [
                f"{where}: built twice from the same seed, it differs in {', '.join(different)}; "
                f"{_CURE}"
            ]
        )
    batch = inputs[:_ROWS]
    with isolated(0):
        for training in (True, False):
            found, again = (_outputs(module, batch, where, training) for module in (one, two))
            if not _equal(found, again):
                raise ConfigError(
                    [
                        f"{where}: built twice from the same seed, it computes different outputs "
                        f"from equal inputs; {_CURE}"
                    ]
                )
        _check_stateless(one, build(), inputs, where)


def _check_stateless(used: nn.Module, new: nn.Module, inputs: Tensor, where: str) -> None:
    """Raise ConfigError if a module that was used computes other outputs than a new one."""
    for training in (True, False):
        _outputs(used, inputs[_ROWS:], where, training)
        # Other parameters than before: nothing made of the old ones may be kept.
        modules = used, new
        found, wanted = (_outputs(m, inputs[:_ROWS], where, training, 0.75) for m in modules)
        if not _equal(found, wanted):
            raise ConfigError(
                [
                    f"{where}: its outputs depend on what it has computed before (an attribute "
                    "that changes in forward, or a generator of its own), but one module serves "
                    "all clients of a process; let outputs depend on inputs, parameters and the "
                    "process-wide generators alone, which are seeded for every client and round"
                ]
            )


def rows_are_independent(module: nn.Module, inputs: Tensor, where: str) -> bool:
    """Whether each sample of a batch has the outputs that it has in any other batch.

    It has not, for example, with batch norm without running statistics. Neither must samples that
    the loss leaves out change its gradient. Arguments as in `check_repeatable`.
    """
    with isolated(0):
        outputs_are = all(_rows_are_independent(module, inputs, where, t) for t in (True, False))
        return outputs_are and _gradients_are_independent(module, inputs)


def _rows_are_independent(module: nn.Module, inputs: Tensor, where: str, training: bool) -> bool:
    """`rows_are_independent` in one of the two modes of a module."""
    quarter = SAMPLES // 4
    first, last, others = inputs[:quarter], inputs[quarter:_ROWS], inputs[_ROWS : _ROWS + quarter]
    batch = inputs[:_ROWS]
    outputs = _outputs(module, batch, where, training)
    scale = float(outputs.abs().max())
    # Other samples beside the same ones; equal seeds give samples at the same place equal dropout.
    for kept, other in (
        (slice(None, quarter), torch.cat([first, others])),
        (slice(quarter, None), torch.cat([others, last])),
    ):
        found = _outputs(module, other, where, training)[kept]
        if not _near(found, outputs[kept], _SAME_SIZE * scale):
            return False
    if _draws(lambda: _run(module, batch, where, training)):
        return True  # with dropout, samples at other places have other outputs anyway
    few = _outputs(module, first, where, training)
    copies = _outputs(module, first[:1].expand_as(batch).contiguous(), where, training)
    near = [_near(few, outputs[:quarter], _OTHER_SIZE * scale)]
    # Copies compete for the places of a mixture of experts.
    near.append(_near(copies, copies[:1].expand_as(copies), _OTHER_SIZE * scale))
    return all(near)


def _gradients_are_independent(module: nn.Module, inputs: Tensor) -> bool:
    """Whether samples that the loss leaves out have no effect on its gradient.

    They have one if a hook adds the gradient of a penalty on activations. True if no gradient can
    be computed, which is reported where the model is trained.
    """
    quarter = SAMPLES // 4
    first, batch = inputs[:quarter], inputs[:_ROWS]
    others = torch.cat([first, inputs[_ROWS : _ROWS + quarter]])
    try:
        gradient = _gradient(module, batch, quarter)
        scale = float(gradient.abs().max())
        if not _near(_gradient(module, others, quarter), gradient, _SAME_SIZE * scale):
            return False
        if _draws(lambda: _gradient(module, batch, quarter)):
            return True
        return _near(_gradient(module, first, quarter), gradient, _OTHER_SIZE * scale)
    except Exception:
        return True


def _gradient(module: nn.Module, inputs: Tensor, count: int) -> Tensor:
    """The gradient of a loss on the first `count` samples of a batch, as a vector [P]."""
    values = [p.clone().requires_grad_() for p in _parameters(module)]
    params = parameters.Layout.of(module).named(values)
    seed_generators(0)
    outputs: Tensor = parameters.call(module, params, inputs.clone())[:count].flatten(1)
    # Not the sum of the outputs, nor of logsumexp alone: they are constant after a log-softmax.
    loss = F.cross_entropy(outputs, torch.zeros(len(outputs), dtype=torch.int64))
    if outputs.shape[1] == 1:  # for which cross-entropy is 0
        loss = outputs.square().mean()
    gradients = torch.autograd.grad(loss, values, allow_unused=True)
    return torch.cat([g.reshape(-1) for g in gradients if g is not None])


def _draws(step: Callable[[], object]) -> bool:
    """Whether a step draws from a process-wide generator."""
    seed_generators(0)
    before = generator_states()
    step()
    return generator_states() != before


def _outputs(
    module: nn.Module, inputs: Tensor, where: str, training: bool, scale: float = 1.0
) -> Tensor:
    """What the module computes for a batch, with equal draws in every call.

    scale: factor of the trainable parameters. Raises ConfigError if the module raises.
    """
    seed_generators(0)
    return _run(module, inputs, where, training, scale)


def _run(
    module: nn.Module, inputs: Tensor, where: str, training: bool, scale: float = 1.0
) -> Tensor:
    params = parameters.Layout.of(module).named([scale * p for p in _parameters(module)])
    mode = "training" if training else "evaluation"
    with (
        plugins.reported(f"{where}: for a batch of {len(inputs)} in {mode}, it"),
        torch.no_grad(),
        nullcontext() if training else evaluating(module),
    ):
        outputs: Tensor = parameters.call(module, params, inputs.clone())
    return outputs


def _parameters(module: nn.Module) -> list[Tensor]:
    """The trainable parameters with which a module is tried."""
    return [_visible(p.detach()) for p in module.parameters() if p.requires_grad]


def _visible(parameter: Tensor) -> Tensor:
    """The parameter, or random values if it is about zero, which hides what comes before it.

    Networks often begin with such a last layer, or with such factors of their branches.
    """
    if parameter.numel() and float(parameter.abs().max()) > 1e-3:
        return parameter
    fan_in = max(1, parameter[:1].numel()) if parameter.dim() else 1
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(parameter.shape, generator=generator)
    return drawn.mul_(0.5 / fan_in**0.5)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether outputs are equal, up to sums that threads add up in another order."""
    return _near(one, other, _SAME_SIZE * float(one.abs().max()))


def _near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return torch.allclose(one, other, rtol=0, atol=tolerance, equal_nan=True)


def _different(one: nn.Module, other: nn.Module) -> list[str]:
    """Names of up to three parameters and buffers that two modules do not share."""
    first, second = _tensors(one), _tensors(other)
    return [n for n in sorted(first | second) if first.get(n) != second.get(n)][:3]


def _tensors(module: nn.Module) -> dict[str, str]:
    """A digest of every parameter (with whether it is trained) and buffer."""
    named = {n: f"{p.requires_grad} {parameters.digest(p)}" for n, p in module.named_parameters()}
    return named | {n: parameters.digest(b) for n, b in module.named_buffers()}
