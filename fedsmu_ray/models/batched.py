"""Several models of one architecture, each on its own batch, in one computation.

Parameters have the client as their leading axis: [C, *shape], in the order of the `Layout`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

import torch
from torch import Tensor, nn
from torch.func import vmap

from fedsmu_ray.models.costs import Costs
from fedsmu_ray.models.stack import Stack, has_hooked_parameters
from fedsmu_ray.numerics import gpu
from fedsmu_ray.numerics.isolation import generator_states, isolated
from fedsmu_ray.numerics.parameters import Layout, call, flatten, gradient, load_into
from fedsmu_ray.objectives.losses import CrossEntropy, Loss

Pieces = list[Tensor] | tuple[Tensor, ...]  # of vectors [C, P], one per parameter
# From parameters, inputs [C, B, ...], targets [C, B, ...] and the weight of each sample in the loss
# [C, B] to the losses [C], and the gradient in the shapes of the parameters.
Gradient = Callable[[Pieces, Tensor, Tensor, Tensor], tuple[Tensor, Pieces]]

# On a CPU: multiplications per sample up to which clients train faster together than one by one,
# and how many of them have to. Measured on networks of linear layers, with batches of 10 to 50.
_STACK = 100_000, 2
_VECTORIZED = 50_000, 5


@dataclass(frozen=True)
class Batched:
    """How the gradients of several clients are computed at once; plain data."""

    least: float  # clients that have to train at once for it to be faster than one by one
    products: float  # multiplications per sample; 0 on a GPU, where they do not matter
    stack: Stack | None = None  # then it is also the fastest way to train one client

    def gradient(self, module: nn.Module, loss: Loss, bfloat16: bool = False) -> Gradient:
        """The computation, for a module of this architecture, and the loss it was made for."""
        return self.stack.gradient if self.stack else vectorized(module, loss, bfloat16)


def batched(
    module: nn.Module,
    inputs: Tensor,
    bfloat16: bool = False,
    loss: Loss = CrossEntropy(),  # noqa: B008
    targets: Tensor | None = None,
) -> Batched | None:
    """How to train several clients in one computation; None if that is impossible or slower.

    inputs: a batch as the model gets it; targets: for the loss (by default classes). bfloat16:
    whether products are in bfloat16. On a GPU it is done whenever it is possible. On a CPU it pays
    for small products, where the overhead of a single client dominates; a convolution already keeps
    a core busy with one client, and its batched form (grouped convolution) is slower there. It is
    impossible for LSTMs, for hooks on parameters, for control flow that depends on values, for
    dropout and other draws, whose random numbers would depend on the group, and for a loss that is
    no mean over samples.
    """
    recurrent = any(isinstance(layer, nn.RNNBase) for layer in module.modules())
    if recurrent or has_hooked_parameters(module) or not loss.has_terms:
        return None
    if targets is None:
        targets = torch.arange(len(inputs), device=inputs.device) % 2
    on_cpu = inputs.device.type == "cpu"
    stack, batch = None if bfloat16 else Stack.of(module, loss), (inputs, targets)
    if stack and _agrees(stack.gradient, module, loss, *batch):
        return Batched(*_least(module, inputs, *_STACK), stack)
    if on_cpu and any(isinstance(m, nn.modules.conv._ConvNd) for m in module.modules()):
        return None
    least, products = _least(module, inputs, *_VECTORIZED)
    if least == inf or not _agrees(vectorized(module, loss), module, loss, *batch):
        return None
    return Batched(least, products)


def _least(module: nn.Module, inputs: Tensor, limit: int, least: int) -> tuple[float, float]:
    """Clients from which it is faster to train them together, and multiplications per sample."""
    if inputs.device.type != "cpu":
        return 2, 0.0
    products = Costs.of(module, inputs).products
    return least if products <= limit else inf, products


def vectorized(
    module: nn.Module,
    loss: Loss = CrossEntropy(),  # noqa: B008
    bfloat16: bool = False,
) -> Gradient:
    """The gradient of any module, by torch.func.vmap and autograd."""
    layout, forward = Layout.of(module), vmap(partial(call, module))

    def compute(
        params: Pieces, inputs: Tensor, targets: Tensor, weight: Tensor
    ) -> tuple[Tensor, Pieces]:
        with torch.enable_grad():
            with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bfloat16):
                outputs = widened(forward(layout.named(params), inputs))
            losses = loss.mean(outputs, targets, weight)
            return losses.detach(), gradient(losses.sum(), params)

    return compute


def widened(outputs: Tensor) -> Tensor:
    """Logits in float32 if they have fewer bits: sums over a batch would lose most of them."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs


def _agrees(
    compute: Gradient, module: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor
) -> bool:
    """Whether the gradients of two models are those of the module, and nothing is drawn.

    Whatever is raised, the clients are trained one by one, where it is reported.
    """
    x = flatten(module)
    y = torch.stack([x, 0.9 * x + 0.01])
    params = [piece.requires_grad_() for piece in Layout.of(module).views(y)]
    own = [p for p in module.parameters() if p.requires_grad]
    try:
        with warnings.catch_warnings(), isolated(0):
            warnings.simplefilter("ignore")
            # An operation that vmap calls client by client: training one by one is faster.
            warnings.filterwarnings("error", "There is a performance drop")
            if inputs.is_cuda:
                gpu.set_precision("float32")  # tf32 would differ by about what is tolerated
            before = generator_states()
            weight = torch.full((2, len(inputs)), 1 / len(inputs), device=inputs.device)
            both = torch.stack([inputs, inputs]), torch.stack([targets, targets])
            losses, found = compute(params, *both, weight)
            if generator_states() != before:
                return False
            mean = loss.of_batch(load_into(module, y[1])(inputs.clone()), targets)
            wanted = torch.cat([g.reshape(-1) for g in gradient(mean, own)])
            difference = torch.cat([g[1].reshape(-1) for g in found]) - wanted
            return torch.allclose(losses[1], mean, rtol=1e-3) and bool(
                difference.norm() <= 1e-3 * wanted.norm()
            )
    except Exception as error:
        if gpu.is_broken(error):
            raise
        return False
    finally:
        load_into(module, x)
