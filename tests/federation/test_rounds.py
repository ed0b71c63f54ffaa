"""The rounds: message bytes, contents of records, and which model is evaluated."""

from dataclasses import replace

import numpy as np
import pytest

from fedsmu_ray.federation import evaluation
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.wire import message
from tests.helpers.experiments import inline, problem_of

METHODS = [{"name": "fedsmu"}, {"name": "fedsmu", "zero_rule": "zero"}, {"name": "fedavg"}]


@pytest.mark.parametrize(
    "algorithm, payload",
    [
        (METHODS[0], lambda d: -(-d // 8)),
        (METHODS[1], lambda d: -(-d // 5)),
        (METHODS[2], lambda d: 4 * d),
    ],
    ids=["sign", "trit", "float32"],
)
def test_bytes_are_those_of_the_messages(algorithm, payload):
    problem = problem_of(algorithm)
    last = inline(problem)[0][-1]
    header = message.overhead(problem.uplink)
    assert header <= 64
    assert last.uplink_bytes == 4 * 7 * (payload(problem.dim) + header)
    assert last.downlink_bytes == 4 * 7 * (4 * problem.dim + 32)


def test_records_say_what_was_evaluated_and_how_uniform_the_uploads_were():
    history = inline(problem_of({"name": "fedsmu"}))[0]
    assert [r.test_accuracy is not None for r in history] == [False, True, False, True]
    assert [r.uniformity for r in history] == [None, 1.0, None, 1.0]
    dense = inline(problem_of({"name": "fedavg"}))[0][-1].uniformity
    assert 1 / 7 <= dense < 0.95


def test_evaluation_is_of_the_model_after_the_round():
    """The evaluation overlaps the next round; it must still be of its own round's model."""
    long, short = (
        problem_of({"name": "fedavg"}),
        problem_of({"name": "fedavg"}, federation={"rounds": 2, "cohort": 7}),
    )
    assert inline(long)[0][1].test_loss == inline(short)[0][1].test_loss


def scores(record):
    return record.val_accuracy, record.val_loss, record.test_accuracy, record.test_loss


@pytest.mark.parametrize(
    "algorithm", [{"name": "fedavg"}, {"name": "dlion"}], ids=lambda a: a["name"]
)
def test_with_validation_samples_the_test_set_is_used_once(monkeypatch, algorithm):
    """They are evaluated like a test set; no client trains on them. DLion's broadcast: no model."""
    monkeypatch.setattr(evaluation, "EVALUATION_SLICE", 100)  # several tasks, of both sets
    problem = problem_of(algorithm, data={"clients": 30, "validation": 0.25})
    data, held_out = problem.dataset, problem.partition.validation.numpy()
    history, sha256, params = inline(problem)
    middle, last = history[1], history[3]
    assert middle.test_accuracy is None and None not in scores(last)
    assert (middle.accuracy, last.accuracy) == (middle.val_accuracy, last.val_accuracy)

    rest = np.setdiff1d(np.arange(len(data.train_y)), held_out)
    others = {"train_x": data.train_x[rest], "train_y": data.train_y[rest]}
    config = replace(problem.config, data=replace(problem.config.data, validation=0.0))
    both = [
        inline(Problem.of(config, replace(data, **others, test_x=x, test_y=y)))
        for x, y in (
            (data.train_x[held_out], data.train_y[held_out]),
            (data.test_x, data.test_y),
        )
    ]
    assert {sha256} == {each[1] for each in both} and np.array_equal(params, both[0][2])
    (validated, _, _), (tested, _, _) = both
    for record, alone in zip(history[1::2], validated[1::2]):
        assert scores(record)[:2] == scores(alone)[2:]
    assert scores(last)[2:] == scores(tested[3])[2:]


@pytest.mark.parametrize("validation", [0.0, 0.25])
@pytest.mark.parametrize(
    "algorithm", [{"name": "fedsmu"}, {"name": "dlion"}], ids=lambda a: a["name"]
)
def test_a_stopped_run_is_the_beginning_of_a_longer_one_and_has_the_model_of_its_last_round(
    algorithm, validation
):
    data = {"clients": 30, "validation": validation}
    federation = {"rounds": 10, "cohort": 7, "eval_every": 2}
    whole = inline(problem_of(algorithm, data=data, federation=federation))[0]
    target = whole[5].accuracy
    first = next(r.round for r in whole if r.accuracy is not None and r.accuracy >= target)
    assert first < 10
    stop = {"target": target}
    stopped = inline(problem_of(algorithm, data=data, federation={**federation, "stop": stop}))
    short = inline(problem_of(algorithm, data=data, federation={**federation, "rounds": first}))
    assert [replace(r, seconds=0) for r in stopped[0]] == [replace(r, seconds=0) for r in short[0]]
    assert stopped[1] == short[1] and np.array_equal(stopped[2], short[2])
    assert [r.round for r in stopped[0]] == list(range(1, first + 1))
    assert stopped[0][-1].test_loss is not None
