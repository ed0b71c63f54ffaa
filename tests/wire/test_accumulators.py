"""Accumulators: exact vote counts by either algorithm, float sums, magnitude uniformity."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsmu_ray.errors import MessageError
from fedsmu_ray.numerics import passes
from fedsmu_ray.wire.accumulators import (
    WEIGHT_BOUND,
    BitSlicedVoteCounter,
    PairwiseSum,
    TritCounter,
    VoteCounter,
    node_count,
    vote_counter,
)
from fedsmu_ray.wire.codecs import Float32, Sign, Trit
from tests.helpers.codecs import random_values


@given(st.integers(1, 40), st.integers(1, 70), st.integers(0, 2**31), st.randoms())
def test_vote_counter_is_exact_in_any_order_and_grouping(clients, dim, seed, order):  # oracle 7
    value = random_values(Sign(), clients, dim, seed)
    rows = Sign().encode(value)
    counter = Sign().accumulator(dim, False)
    shuffled = list(range(clients))
    order.shuffle(shuffled)
    while shuffled:
        take = order.randint(1, len(shuffled))
        counter.add(0, counter.decode(rows[shuffled[:take]]))
        shuffled = shuffled[take:]
    votes = value.int().sum(0, dtype=torch.int32)
    assert ((votes - clients) % 2 == 0).all() and (votes.abs() <= clients).all()
    assert torch.equal(counter.mean(), votes.float() / clients)


def mean_of_bits(rows, dim):
    positive = np.unpackbits(rows, axis=-1, count=dim, bitorder="little").sum(0, dtype=np.int32)
    return torch.from_numpy(2 * positive - np.int32(len(rows))).float() / len(rows)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 80),
    st.integers(1, 700),
    st.integers(1, 30),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_votes_are_the_sum_of_the_unpacked_bits(count, dim, batch, seed, compiled):
    noise = np.random.default_rng(seed)
    messages = noise.integers(0, 256, (count, 33 + Sign().size(dim)), np.uint8)
    messages[:, -1] &= 255 >> (-dim % 8)
    messages.setflags(write=bool(seed % 2))
    rows = messages[:, 33:]  # at odd addresses, as payloads in a message can be
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "COMPILED_FROM", 1 if compiled else 1 << 40)
        counter = Sign().accumulator(dim, False)
        for start in range(0, count, batch):
            counter.add(start, rows[start : start + batch])
            if start % 4 == 0:
                counter.mean()  # computing the mean early does not change the sum
        assert torch.equal(counter.mean(), mean_of_bits(rows, dim))


@pytest.mark.parametrize("count, dim", [(9, 131_073), (40, 300_001), (300, 140_000)])
def test_votes_of_large_models(count, dim):
    rows = np.random.default_rng(count).integers(0, 256, (count, Sign().size(dim)), np.uint8)
    rows[:, -1] &= 255 >> (-dim % 8)
    counter = Sign().accumulator(dim, False)
    counter.add(0, rows)
    assert torch.equal(counter.mean(), mean_of_bits(rows, dim)) and counter.planes.any()


@pytest.mark.parametrize("count", [15, 16, 127, 128, 255, 256, 33_000, 70_000])
@pytest.mark.parametrize("kind", [VoteCounter, BitSlicedVoteCounter])
def test_votes_where_the_counters_overflow_into_the_next_digit(kind, count):
    counter = kind(9)
    counter.add(0, np.broadcast_to(np.array([0b11110000, 1], np.uint8), (count, 2)))
    assert counter.mean().tolist() == [-1.0] * 4 + [1.0] * 5
    counter.add(count, np.array([[0, 0]], np.uint8))
    rest = torch.tensor(float(count - 1)).div(count + 1).item()
    assert counter.mean().tolist() == [-1.0] * 4 + [rest] * 5


def test_the_size_of_the_model_decides_how_votes_are_counted():
    assert type(vote_counter(passes.COMPILED_FROM - 1)) is VoteCounter
    assert type(vote_counter(passes.COMPILED_FROM)) is BitSlicedVoteCounter


@pytest.mark.parametrize("kind", [VoteCounter, BitSlicedVoteCounter])
def test_votes_with_padding_are_refused(kind):
    with pytest.raises(MessageError, match="padding bits are set"):
        kind(9).decode(np.array([[0, 2]], np.uint8))


def recursive_sum(rows):
    """Sum of rows at positions 0, 1, ..., None for those that are missing, by halves of 2^k."""
    if len(rows) == 1:
        return rows[0]
    half = 1 << (len(rows) - 1).bit_length() - 1
    left, right = recursive_sum(rows[:half]), recursive_sum(rows[half:])
    if left is None or right is None:
        return right if left is None else left
    return left + right


@given(st.integers(1, 70), st.floats(0, 0.7), st.randoms())
def test_pairwise_sums_have_the_bits_of_the_tree_in_any_order_and_grouping(count, lost, chance):
    noise = torch.Generator().manual_seed(chance.randrange(1 << 30))
    rows = 10 ** torch.randn(count, 3, generator=noise)
    kept = [i for i in range(count) if chance.random() >= lost] or [0]
    groups = []
    while kept:
        run = 1
        while run < min(len(kept), 9) and kept[run] == kept[0] + run and chance.random() < 0.8:
            run += 1
        groups.append(range(kept[0], kept[0] + run))
        kept = kept[run:]
    expected = recursive_sum(
        [rows[i] if any(i in group for group in groups) else None for i in range(count)]
    )
    chance.shuffle(groups)
    parts = [PairwiseSum() for _ in range(3)]  # of three processes
    for group in groups:
        alone = PairwiseSum()
        alone.add(group.start, rows[group.start : group.stop])
        assert len(alone.nodes) == node_count(group.start, len(group))
        chance.choice(parts).add(group.start, rows[group.start : group.stop])
    whole = PairwiseSum()
    for part in parts:
        for node, value in part.nodes.items():
            whole.merge(node, value)
    assert torch.equal(whole.total(), expected)
    torch.testing.assert_close(
        whole.total().double(),
        sum(rows[i].double() for group in groups for i in group),
        rtol=1e-5,
        atol=0,
    )


@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 2**31))
def test_other_accumulators_agree_with_the_definition(clients, dim, seed):
    for codec in (Float32(), Trit()):
        value = random_values(codec, clients, dim, seed)
        total = codec.accumulator(dim, True)
        for i, row in enumerate(codec.encode(value)):
            total.add(i, total.decode(row[None]))
        torch.testing.assert_close(total.mean(), value.float().mean(0), rtol=1e-5, atol=1e-6)
        a = value.double().abs()
        kept = a.sum(0) > 0
        jain = a.sum(0)[kept] ** 2 / (clients * (a**2).sum(0)[kept])
        expected = float(jain.mean()) if kept.any() else 1.0
        assert total.uniformity() == pytest.approx(expected, rel=1e-5)


def test_uniformity_reference_values():  # oracle 29
    g = torch.Generator().manual_seed(0)
    dense = Float32().accumulator(200_000, True)
    dense.add(0, torch.randn(10, 200_000, generator=g))
    assert dense.uniformity() == pytest.approx(0.673, abs=0.002)
    one = Float32().accumulator(4, True)
    one.add(0, torch.tensor([[1.0, 0, 0, 2]] + [[0.0] * 4] * 4))
    assert one.uniformity() == pytest.approx(1 / 5)


WEIGHTS = st.lists(st.integers(1, 5000), min_size=1, max_size=40)


def add_in_any_order(counter, rows, weights, order):
    left = list(range(len(rows)))
    order.shuffle(left)
    while left:
        some, left = left[: (take := order.randint(1, len(left)))], left[take:]
        counter.add(0, counter.decode(rows[some]), [weights[i] for i in some])


@given(WEIGHTS, st.integers(1, 70), st.integers(0, 2**31), st.randoms())
def test_weighted_votes_are_exact_in_any_order_and_grouping(weights, dim, seed, order):
    for codec, kinds in ((Sign(), (VoteCounter, BitSlicedVoteCounter)), (Trit(), (TritCounter,))):
        value = random_values(codec, len(weights), dim, seed)
        votes = torch.tensor(weights) @ value.long()
        for kind in kinds:
            counter = TritCounter(codec, dim) if kind is TritCounter else kind(dim)
            add_in_any_order(counter, codec.encode(value), weights, order)
            assert torch.equal(counter.mean(), votes.float() / sum(weights)), kind


@pytest.mark.parametrize("weights", [[1], [8], [7, 8, 9], [2**20 + 1] * 9, [WEIGHT_BOUND - 2, 1]])
def test_weighted_votes_in_every_plane(weights):
    rows = np.array([[0b10101010]] * (len(weights) - 1) + [[0b11110000]], np.uint8)
    small, sliced = VoteCounter(8), BitSlicedVoteCounter(8)
    for counter in (small, sliced):
        counter.add(0, rows, weights)
    signs = 2 * np.unpackbits(rows, axis=1, bitorder="little").astype(np.int64) - 1
    votes = torch.from_numpy(np.array(weights) @ signs)
    assert torch.equal(sliced.mean(), votes.float() / sum(weights))
    assert torch.equal(small.mean(), sliced.mean())


def test_many_weighted_votes_are_the_sum_of_the_unpacked_bits():
    noise = np.random.default_rng(2)
    rows = noise.integers(0, 256, (90, Sign().size(140_001)), np.uint8)
    rows[:, -1] &= 1
    weights = noise.integers(1, 700, 90).tolist()
    counter = Sign().accumulator(140_001, False)
    assert isinstance(counter, BitSlicedVoteCounter)
    for start in (40, 0, 80):
        some = slice(start, min(start + 40, 90))
        counter.add(start, rows[some], weights[some])
        counter.mean()  # computing the mean early does not change the sum
    bits = np.unpackbits(rows, axis=1, count=140_001, bitorder="little").astype(np.int64)
    votes = torch.from_numpy(2 * (np.array(weights) @ bits) - sum(weights))
    assert torch.equal(counter.mean(), votes.float() / sum(weights))


@given(WEIGHTS, st.integers(0, 2**31), st.randoms())
def test_weighted_means_have_the_same_bits_in_any_order(weights, seed, order):
    value = random_values(Float32(), len(weights), 5, seed)
    whole, parts = Float32().accumulator(5, True), Float32().accumulator(5, True)
    whole.add(0, value, weights)
    positions = list(range(len(weights)))
    order.shuffle(positions)
    for i in positions:
        parts.add(i, value[i : i + 1], weights[i : i + 1])
    assert torch.equal(parts.mean(), whole.mean())
    exact = torch.tensor(weights).double() @ value.double() / sum(weights)
    size = value.abs().max()
    assert torch.allclose(whole.mean().double(), exact, rtol=1e-5, atol=1e-6 * float(size))
    unweighted = Float32().accumulator(5, True)
    unweighted.add(0, value)
    assert whole.uniformity() == unweighted.uniformity()
