"""Self-attention with fewer copies is that of PyTorch."""

import copy

import pytest
import torch
from torch import nn

from fedsmu_ray.models.attention import SelfAttention, simplify

LENGTH, WIDTH = 5, 8


def both(**options):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(WIDTH, 2, **{"batch_first": True, **options})
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    simple = copy.deepcopy(layer)
    simplify(simple)
    assert type(simple) is SelfAttention
    return layer, simple


def inputs():
    return torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def outcome(layer, *others, **options):
    """The output and the gradients for the input and the parameters."""
    x = inputs().requires_grad_()
    torch.manual_seed(2)
    out, weights = layer(x, *(others or (x, x)), **{"need_weights": False, **options})
    h = torch.autograd.grad(out.square().sum(), [x, *layer.parameters()], materialize_grads=True)
    return [out, *h] + ([] if weights is None else [weights])


@pytest.mark.parametrize("bias", [True, False])
def test_plain_self_attention(bias, monkeypatch):
    layer, simple = both(bias=bias)
    wanted = outcome(layer)
    monkeypatch.setattr(nn.MultiheadAttention, "forward", None)
    torch.testing.assert_close(outcome(simple), wanted)


@pytest.mark.parametrize(
    "options, call, others",
    [
        ({"dropout": 0.5}, {}, ()),
        ({"batch_first": False}, {}, ()),
        ({"add_bias_kv": True}, {}, ()),
        ({"add_zero_attn": True}, {}, ()),
        ({}, {"need_weights": True, "average_attn_weights": False}, ()),
        ({}, {"attn_mask": torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)}, ()),
        ({}, {"key_padding_mask": torch.arange(LENGTH).expand(3, -1) > 2}, ()),
        ({}, {}, (inputs(), inputs())),
        ({"kdim": 8, "vdim": 8}, {}, ()),
    ],
)
def test_everything_else_is_pytorchs(options, call, others):
    layer, simple = both(**options)
    wanted, found = outcome(layer, *others, **call), outcome(simple, *others, **call)
    if "kdim" in options:  # the same as none
        torch.testing.assert_close(found, wanted)
        return
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_evaluation_and_errors_are_pytorchs():
    layer, simple = (model.eval() for model in both())
    x = inputs()
    assert torch.equal(simple(x, x, x)[0], layer(x, x, x)[0])
    with pytest.raises(RuntimeError, match="attn_mask"):
        simple.train()(x, x, x, need_weights=False, is_causal=True)


def test_layers_of_another_class_stay():
    class Own(nn.MultiheadAttention):
        pass

    module = nn.Sequential(Own(8, 2), nn.TransformerEncoderLayer(8, 2, 8))
    simplify(module)
    assert type(module[0]) is Own and type(module[1].self_attn) is SelfAttention
