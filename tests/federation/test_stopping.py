"""When an experiment ends before its last round, as a function of its evaluated rounds."""

import math

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.federation.records import Record
from fedsmu_ray.federation.stopping import stop_reason


def ends_at(values, field="test_accuracy", every=1, rounds=20, validation=0.0, **stop):
    """The round at which an experiment with these values ends, and why."""
    plain = {"rounds": rounds, "eval_every": every, "stop": stop}
    config = parse({"federation": plain, "data": {"validation": validation}})
    evaluated = []
    for i, value in enumerate(values):
        number = min(every * (i + 1), rounds)
        evaluated.append(Record(number, (), 0.5, 10, 10, 0.1, 0.0, **{field: value}))
        if why := stop_reason(config, evaluated):
            return number, why
    return None


def test_without_a_rule_no_run_ends_early():
    assert ends_at([0.9, math.nan, 0.1]) is None


@pytest.mark.parametrize(
    "values, stop, expected",
    [
        ([0.5, 0.8, 0.9], {"target": 0.8}, 2),
        ([0.5, 0.8, 0.7, 0.9], {"target": 0.8, "min_rounds": 3}, 4),  # not at 3: it fell again
        ([0.5, 0.7], {"target": 0.8}, None),
        ([math.nan, 0.9], {"target": 0.8}, 2),
        ([0.5, 0.6, 0.6, 0.6], {"patience": 2}, 4),  # the same value is no improvement
        ([0.5, 0.6, 0.5, 0.7, 0.6, 0.5], {"patience": 2}, 6),
        ([0.5, 0.4, 0.3, 0.2], {"patience": 1, "min_rounds": 3}, 3),
        ([math.nan] * 4, {"patience": 3}, 4),  # a model that has diverged improves no more
        ([0.1, 0.1, 0.9], {"target": 0.8, "patience": 1}, 2),
        ([0.1, 0.9], {"target": 0.8, "patience": 1}, 2),
    ],
    ids=str,
)
def test_the_round_at_which_a_run_ends(values, stop, expected):
    found = ends_at(values, **stop)
    assert (found and found[0]) == expected


def test_a_loss_improves_downwards_and_the_reason_has_key_and_values():
    found = ends_at([2.0, 1.5, 1.0], "test_loss", metric="test/loss", target=1.5)
    assert found == (2, "test/loss = 1.5 reaches federation.stop.target = 1.5")
    found = ends_at([1.0, 1.5, 2.0], "test_loss", metric="test/loss", patience=2)
    since = "test/loss has not improved since round 1 (federation.stop.patience = 2)"
    assert found == (3, since)


def test_validation_samples_decide_where_there_are_some():
    round, why = ends_at([0.5, 0.8], "val_accuracy", validation=0.1, target=0.8)
    assert round == 2 and why.startswith("val/accuracy = 0.8")


def test_patience_counts_evaluations():
    assert ends_at([0.5, 0.4, 0.4], every=5, patience=2)[0] == 15


def test_the_former_last_round_of_a_run_with_more_rounds_now_counts_for_nothing():
    """A run of 7 rounds has evaluated round 7, too; resumed with 20 rounds it ends alike."""
    plain = {"rounds": 20, "eval_every": 5, "stop": {"patience": 2}}
    config = parse({"federation": plain})
    numbers = [(5, 0.5), (7, 0.9), (10, 0.6), (15, 0.7)]
    rows = [Record(n, (), 0.5, 10, 10, 0.1, 0.0, test_accuracy=a) for n, a in numbers]
    assert stop_reason(config, rows) is None
