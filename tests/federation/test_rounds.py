"""The rounds: message bytes, contents of records, and which model is evaluated."""

import pytest

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
