"""Compressors and quantizers compared with exact oracles (numbers in brackets), in float64."""

import pytest
import torch

from fedsmu_ray.wire.compressors import BlockSign, HeavySign, Quantizer, TopK
from fedsmu_ray.wire.support import Support
from tests.helpers.quadratics import F64, Quadratics, normal


def test_one_bit_of_the_quantizer_is_fedsmu():  # [14]
    v = normal(4, 7)
    v[0, :3] = 0.0
    local = Quadratics.random(4, sizes=(3, 4)).local(range(4))
    u = Quantizer((3, 4), 1, zero_level=False, zero_rule="plus").compress(v, local)
    assert torch.equal(u, local.sign(v, "plus").to(F64))


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_error_and_symmetry_of_the_quantizer(bits):  # [14]
    v = normal(4, 70)
    local = Quadratics.random(4).local(range(4))
    code = Quantizer((30, 40), bits, zero_level=False, zero_rule="plus")
    u = code.compress(v, local)
    r = torch.cat([g.abs().amax(-1, keepdim=True).expand_as(g) for g in v.split((30, 40), -1)], -1)
    # Half a cell of the input grid, plus the small distance from a cell's center to its level,
    # because the levels are spread over all of [-1, 1].
    assert ((u - v / r).abs() <= 2 ** (1 - bits)).all()
    assert (u.abs().amax(-1) == 1).all()
    assert torch.equal(code.compress(-v, local), -u)
    assert code.size(70) == -(-70 * bits // 8)
    tread = Quantizer((30, 40), bits, zero_level=True).compress(v, local)
    assert ((tread - v / r).abs() <= 0.5 / (2 ** (bits - 1) - 1) + 1e-12).all()


@pytest.mark.parametrize(
    "zero_level, bits", [(False, 1), (False, 2), (False, 3), (True, 2), (True, 4)]
)
@pytest.mark.parametrize("scaled", [False, True])
def test_stochastic_rounding_is_unbiased(zero_level, bits, scaled):
    v, draws = normal(1, 50).float(), 4000
    v[0, :3] = 0.0
    local = Quadratics.random(1).local([0])
    code = Quantizer((20, 30), bits, zero_level, stochastic=True, scaled=scaled)
    z = code.compress(v.expand(draws, -1), local)
    assert torch.equal(code.decode(code.encode(z), 50), z)
    r = torch.cat([g.abs().amax(-1, keepdim=True).expand_as(g) for g in v.split((20, 30), -1)], -1)
    unit, mean = (r, v) if scaled else (1, v / r)
    z = z.double()
    assert ((z.mean(0) - mean).abs() <= 5 * z.std(0) / draws**0.5 + 1e-6).all()
    level = z / unit * code.top  # every value is one of the two nearest levels
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-5)
    assert ((z - mean).abs() <= (1 if zero_level else 2) * unit / code.top + 1e-6).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_dithering_is_unbiased_and_on_its_grid(bits):  # [20]
    v, draws = normal(1, 50), 4000
    local = Quadratics.random(1).local([0])
    code = Quantizer((20, 30), bits, stochastic=True, scaled=True)
    z = torch.cat([code.compress(v, local) for _ in range(draws)])
    q = 2 ** (bits - 1) - 1
    r = torch.cat([g.abs().amax(-1, keepdim=True).expand_as(g) for g in v.split((20, 30), -1)], -1)
    assert ((z.mean(0) - v).abs() <= 5 * z.std(0) / draws**0.5 + 1e-12).all()
    level = z / r * q
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-9)
    assert ((z - v).abs() < r / q).all() and (level.abs() <= q + 1e-9).all()


def error(z, v):
    return (z - v).square().sum(-1)


def test_errors_of_the_compressors():  # [22]
    v, local = normal(5, 40), Quadratics.random(5).local(range(5))
    norm = v.square().sum(-1)
    sizes = (15, 25)
    z = BlockSign(sizes).compress(v, local)
    torch.testing.assert_close(
        error(z, v), norm - sum(g.abs().sum(-1) ** 2 / g.shape[-1] for g in v.split(sizes, -1))
    )
    support = Support((40,), 0.25, "min")
    kept = torch.where(support.mask(v), v, 0)
    torch.testing.assert_close(
        error(HeavySign(support).compress(v, local), v), norm - kept.abs().sum(-1) ** 2 / 10
    )
    assert (error(TopK(support).compress(v, local), v) <= (1 - 10 / 40) * norm).all()
    dense = HeavySign(Support((40,), 1.0, "min")).compress(v, local)
    torch.testing.assert_close(dense, BlockSign((40,)).compress(v, local))


def test_top_k_keeps_exactly_k_and_the_lowest_index_of_equals():  # [22]
    local = Quadratics.random(1).local([0])
    v = torch.tensor([[1.0, -2.0, 2.0, 2.0, 0.5, -2.0, 3.0, 0.0]])
    z = TopK(Support((8,), 3 / 8, "index")).compress(v, local)
    assert torch.equal(z, torch.tensor([[0.0, -2.0, 2.0, 0.0, 0.0, 0.0, 3.0, 0.0]]))
    assert Support((8,), 3 / 8, "index").mask(torch.zeros(1, 8)).sum() == 3
    grouped = Support((4, 4), 0.25, "index").mask(v)
    assert grouped.nonzero()[:, 1].tolist() == [1, 6]
