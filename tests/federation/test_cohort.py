"""Sampling of cohorts and simulated drop-out: uniform, independent, a function of the seed."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedsmu_ray.config import sampling
from fedsmu_ray.config.loading import load_config
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.cohort import SAMPLINGS, descending, drop_out, largest, sample_cohort
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.numerics import streams
from tests.helpers.experiments import inline, problem_of


def test_cohorts_are_uniform_and_independent_of_the_method():
    assert sample_cohort(3, 5, 30, 7) == sample_cohort(3, 5, 30, 7) != sample_cohort(3, 6, 30, 7)
    counts = np.bincount([c for t in range(3000) for c in sample_cohort(0, t, 30, 7)], minlength=30)
    expected = 3000 * 7 / 30
    assert abs(counts - expected).max() < 5 * (expected * (1 - 7 / 30)) ** 0.5


SIZES = torch.tensor([10, 20, 30, 40, 100, 300])


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_sampling_gives_distinct_clients_from_the_seed_in_ascending_order(name):
    for t in range(1, 30):
        found = SAMPLINGS[name](1, t, SIZES, 4)
        assert len(set(found)) == 4 and found == sorted(found) and set(found) <= set(range(6))
        assert found == SAMPLINGS[name](1, t, SIZES, 4)
    assert SAMPLINGS[name](1, 3, SIZES, 6) == list(range(6))
    others = [SAMPLINGS[name](seed, 1, torch.ones(40, dtype=torch.int64), 20) for seed in (1, 2)]
    assert others[0] != others[1]


def test_weighted_sampling_draws_clients_by_their_samples():
    drawn = [SAMPLINGS["weighted"](0, t, SIZES, 1)[0] for t in range(1, 5001)]
    counts, shares = np.bincount(drawn, minlength=6), SIZES.numpy() / 500
    assert (abs(counts - 5000 * shares) < 5 * (5000 * shares * (1 - shares)) ** 0.5).all()


def test_fixed_sampling_has_the_same_clients_in_every_round():
    assert len({tuple(SAMPLINGS["fixed"](3, t, SIZES, 2)) for t in range(1, 50)}) == 1


def test_cyclic_sampling_has_all_clients_equally_often_in_a_drawn_order():
    drawn = [SAMPLINGS["cyclic"](3, t, SIZES, 4) for t in range(1, 4)]  # 12 = twice all six
    assert np.bincount(sum(drawn, [])).tolist() == [2] * 6
    assert SAMPLINGS["cyclic"](3, 4, SIZES, 4) == drawn[0]


def alternating(round, sizes, cohort, generator):
    """The largest clients in every other round, else some of the others, in any order."""
    order = sizes.argsort()[::-1]
    return order[:cohort] if round % 2 else generator.permutation(order[cohort:])[:cohort]


def sampled(by, cohort=2):
    """A problem of clients that differ in their numbers of samples."""
    data = {"clients": 6, "partition": {"kind": "quantity_skew", "alpha": 2.0}}
    return Problem.of(load_config({"data": data, "federation": {"cohort": cohort, "sampling": by}}))


def test_a_function_samples_clients():
    name = "import:tests.federation.test_cohort:alternating"
    problem = sampled(name)
    largest = sorted(problem.partition.sizes.argsort(descending=True)[:2].tolist())
    assert problem.cohort(1) == problem.cohort(3) == largest
    others = [problem.cohort(t) for t in (2, 4, 6, 8, 10, 12)]
    assert others == [problem.cohort(t) for t in (2, 4, 6, 8, 10, 12)]
    assert all(found == sorted(found) and not {*found} & {*largest} for found in others)
    assert len({tuple(found) for found in others}) > 1
    config = sampled(alternating).config
    assert config == problem.config and vars(config.federation)["_imported"] is alternating


def test_a_function_that_draws_from_the_process_draws_the_same_in_every_run():
    problem = sampled(lambda *_: random.sample(range(6), 2))
    before = random.getstate()
    rounds = [problem.cohort(t) for t in range(1, 9)]
    random.seed(5)
    assert rounds == [problem.cohort(t) for t in range(1, 9)] and len(set(map(tuple, rounds))) > 2
    random.setstate(before)
    problem.cohort(1)
    assert random.getstate() == before


@pytest.mark.parametrize(
    "returned, words",
    [
        ([0, 6], "round 1: it returned client 6, and clients are 0 to 5; return the numbers of 2"),
        ([-1, 2], "it returned client -1, and"),
        ([3, 3], "it returned 2 clients, 1 of them again; return the numbers of 2 different"),
        ([1], "it returned 1 clients; "),
        ([1, 2, 3], "it returned 3 clients; "),
        (None, "it returned NoneType None, not whole numbers"),
        ([0.5, 1], "it returned list [0.5, 1], not whole numbers"),
        (np.array([1.0, 2.0]), "not whole numbers"),
        ([True, False], "not whole numbers"),
        (np.array([True, True, False, False, False, False]), "not whole numbers"),
    ],
    ids=str,
)
def test_what_a_function_must_return(returned, words):
    with pytest.raises(ConfigError) as raised:
        sampled(lambda *_: returned)
    (problem,) = raised.value.problems
    assert problem.startswith("federation.sampling = import:") and words in problem


def lazy(round, sizes, cohort, generator):
    """A generator function, which draws, and may raise, when it is iterated over."""
    yield from random.sample(range(6), cohort)
    1 / (round - 3)


def test_a_generator_function_is_one_that_returns_a_list():
    problem = sampled(lazy)
    assert [problem.cohort(t) for t in (1, 2)] == [problem.cohort(t) for t in (1, 2)]
    with pytest.raises(ConfigError, match=r"sampling = import:.*:lazy: .*ZeroDivisionError"):
        problem.cohort(3)


def test_a_function_that_raises_is_named_with_its_line():
    with pytest.raises(ConfigError, match=r"sampling = import:.*ZeroDivisionError.*test_cohort.py"):
        sampled(lambda *_: 1 / 0)


def test_every_name_of_the_configuration_is_a_sampling():
    assert [*SAMPLINGS, "import:<package.module>:<function>"] == [*sampling.SAMPLINGS]


def test_drop_outs_are_independent_and_have_the_configured_rate():
    cohort = list(range(200))
    stayed = [set(drop_out(7, t, cohort, 0.25)) for t in range(1, 101)]
    count = sum(map(len, stayed))
    assert abs(count - 15000) < 5 * (20000 * 0.25 * 0.75) ** 0.5
    assert len(set(map(frozenset, stayed))) == 100
    alone = [c for c in cohort if drop_out(7, 3, [c], 0.25)]
    assert set(alone) == stayed[2]  # independent of the rest of the cohort
    assert streams.keys(7, "dropout", 1, torch.tensor(0)) != streams.keys(
        7, "batches", 1, torch.tensor(0)
    )


def test_clients_are_ordered_descending_and_equal_ones_stay_as_they_are():
    sizes = torch.tensor([5, 9, 5, 1, 9])
    assert descending([0, 1, 2, 3, 4], sizes) == [1, 4, 0, 2, 3]
    assert descending([4, 2, 0], sizes) == [4, 2, 0] and descending([], sizes) == []


def test_the_example_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "your-own-method.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"```py\n(.*?)```", text, re.DOTALL)[1], names)
    data = {"clients": 40, "partition": {"kind": "quantity_skew", "alpha": 2.0}}
    sampling = names["half_of_the_largest"]
    problem = Problem.of(
        load_config({"data": data, "federation": {"cohort": 4, "sampling": sampling}})
    )
    largest = set(problem.partition.sizes.argsort(descending=True)[:4].tolist())
    found = [problem.cohort(t) for t in range(1, 6)]
    assert all(len(largest & {*cohort}) == 2 for cohort in found) and found[0] != found[1]


def test_the_largest_losses_are_chosen():
    nan = float("nan")
    assert largest({7: 1.0, 2: 3.0, 4: 2.0, 9: 0.5}, 2) == [2, 4]
    assert largest({7: 1.0, 2: 1.0, 4: 1.0}, 2) == [2, 4]  # in a tie, the first ones
    assert largest({7: 1.0, 2: 5.0, 9: nan}, 2) == [2, 9]


def choosing(algorithm, candidates=6, **federation):
    return problem_of(
        algorithm,
        data={"clients": 20, "partition": {"kind": "quantity_skew", "alpha": 1.0}},
        federation={
            "rounds": 3,
            "cohort": 3,
            "eval_every": 2,
            "sampling": "power_of_choice",
            "candidates": candidates,
            **federation,
        },
    )


@pytest.mark.parametrize("name", ["fedsmu", "scaffold"])
def test_power_of_choice_trains_the_candidates_whose_losses_are_largest(name):
    """The first round, compared with losses of the initial model that are computed by hand."""
    problem = choosing({"name": name})
    data, module = DeviceData(problem.dataset, torch.device("cpu")), problem.module()
    history, losses = inline(problem)[0], {}
    first, candidates = history[0], problem.cohort(1)
    assert len(candidates) == 6 and {*first.cohort} < {*candidates}
    for client in candidates:
        inputs, labels = data.batch(problem.partition.of(client))
        with torch.no_grad():
            losses[client] = float(F.cross_entropy(module(inputs), labels))
    chosen = sorted(sorted(candidates, key=lambda c: -losses[c])[:3])
    assert list(first.cohort) == chosen
    down = first.downlink_bytes / 6
    assert down == int(down) >= 4 * problem.dim
    weights = 8 * 3 if name == "scaffold" else 1 / 8 * 3
    assert 0 < first.uplink_bytes - 4 * 6 - weights * problem.dim <= 3 * 80
    assert history[-1].downlink_bytes == 3 * first.downlink_bytes


def test_without_a_choice_it_is_weighted_sampling():
    chosen, drawn = (
        choosing({"name": "fedsmu"}, candidates=3),
        choosing({"name": "fedsmu"}, candidates=None, sampling="weighted"),
    )
    (one, sha256, _), (other, same, _) = inline(chosen), inline(drawn)
    assert sha256 == same and [r.cohort for r in one] == [r.cohort for r in other]
    assert [r.uplink_bytes - s.uplink_bytes for r, s in zip(one, other)] == [12, 24, 36]


def test_a_method_that_sends_no_model_has_no_losses_to_compare():
    with pytest.raises(ConfigError, match="power_of_choice: algorithm.name = dlion sends its"):
        choosing({"name": "dlion"})
