"""Clients that raise, send invalid messages or drop out: retried, then dropped or reported."""

from dataclasses import replace

import pytest
import torch

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ClientError, MessageError
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.cohort import drop_out, sample_cohort
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.wire import message
from tests.helpers.experiments import inline

BROKEN = 4  # the client that misbehaves
ALWAYS = 10**9


def problem_of(algorithm="fedsmu", group=1, **federation):
    return Problem.of(
        parse(
            {
                "data": {"clients": 12},
                "model": {"hidden": [16]},
                "algorithm": {"name": algorithm},
                "local": {"epochs": 1, "batch_size": 20},
                "federation": {"rounds": 4, "cohort": 6, "eval_every": 2, **federation},
                "compute": {"executor": "inline", "clients_per_task": group},
            }
        )
    )


def outcome(problem):
    history, sha256, _ = inline(problem)
    return history, sha256


def raises(messages, row):
    raise RuntimeError("no more data")


def altered(messages, row):
    messages[row, -1] ^= 1
    return messages


def truncated(messages, row):
    return messages[:, :-3]


@pytest.fixture
def misbehave(monkeypatch):
    """A function misbehave(how, times): the next `times` tasks with the broken client fail."""

    def begin(how, times):
        left = [times]

        def train(self, round, clients, broadcast, states, *makers):
            output = honest(self, round, clients, broadcast, states, *makers)
            if BROKEN in clients and left[0]:
                left[0] -= 1
                messages = how(output.messages, clients.index(BROKEN))
                return replace(output, encode=lambda: messages, may_stay=False)
            return output

        monkeypatch.setattr(ClientWorker, "train", train)
        return left

    honest = ClientWorker.train
    return begin


@pytest.mark.parametrize("how", [raises, altered, truncated])
@pytest.mark.parametrize("group", [1, 3])
def test_a_transient_failure_is_retried_and_does_not_change_the_result(
    how, group, misbehave, caplog
):
    problem = problem_of(group=group, client_retries=2)
    before, undisturbed = outcome(problem)
    left = misbehave(how, 2)
    history, sha256 = outcome(problem)
    assert sha256 == undisturbed and left == [0] and history[-1].dropped == 0
    assert history[-1].retried == 2 * group and before[-1].retried == 0
    assert "retry 1 of 2" in caplog.text and "retry 2 of 2" in caplog.text


@pytest.mark.parametrize(
    "how, error, match",
    [
        (
            raises,
            ClientError,
            rf"round 2, client {BROKEN}: RuntimeError: no more data "
            r"\(.*test_rounds_client_failures.py:\d+\)",
        ),
        (altered, MessageError, rf"round 2, client {BROKEN}: checksum mismatch"),
    ],
)
def test_a_permanent_failure_ends_the_run_and_names_the_client(how, error, match, misbehave):
    misbehave(how, ALWAYS)
    with pytest.raises(error, match=match):
        outcome(problem_of())


@pytest.mark.parametrize("how", [raises, altered])
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("algorithm", ["fedsmu", "fedavg", "scaffold", "dlion"])
def test_a_dropped_client_has_no_effect(algorithm, group, how, misbehave, monkeypatch, caplog):
    """The run equals one that never samples the broken client.

    If that client is alone in its group, votes are the same; floats are rounded otherwise, since
    the other clients have other positions.
    """
    problem = problem_of(algorithm, group, on_client_failure="drop")
    misbehave(how, ALWAYS)
    history, sha256 = outcome(problem)
    assert outcome(problem)[1] == sha256
    hit = [t for t in range(1, 5) if BROKEN in sample_cohort(0, t, 12, 6)]
    assert hit and history[-1].dropped == len(hit)
    assert f"client {BROKEN} is dropped from round {hit[0]}" in caplog.text
    assert history[-1].uplink_bytes == (4 * 6 - len(hit)) * message.length(
        problem.uplink, problem.dim
    )
    if group == 1:
        monkeypatch.undo()
        monkeypatch.setattr(
            "fedsmu_ray.federation.rounds.drop_out",
            lambda seed, round, cohort, dropout: [c for c in cohort if c != BROKEN],
        )
        without, expected = outcome(problem)
        if algorithm in ("fedsmu", "dlion"):
            assert sha256 == expected
        for a, b in zip(history, without):
            assert (a.downlink_bytes, a.dropped) == (b.downlink_bytes, b.dropped)
            assert a.train_loss == pytest.approx(b.train_loss, rel=1e-5)
            assert a.test_loss is b.test_loss or a.test_loss == pytest.approx(b.test_loss, rel=1e-5)


def test_one_bad_client_of_a_group_does_not_take_the_others_with_it(misbehave, caplog):
    misbehave(raises, ALWAYS)
    history, _ = outcome(problem_of(group=6, on_client_failure="drop", client_retries=0))
    assert "retrying its 6 clients one by one" in caplog.text and 1 <= history[-1].dropped <= 4
    assert history[-1].retried == 6 * history[-1].dropped  # in each of its rounds


def test_a_diverging_client_is_dropped(monkeypatch, caplog):
    """A client whose own training gives NaN refuses to send it."""
    from fedsmu_ray.federation.local_training import GroupSolver

    train = GroupSolver.train
    monkeypatch.setattr(
        GroupSolver,
        "train",
        lambda self, x, *more: (
            self._check_finite(
                y := torch.where(
                    (self.clients == BROKEN)[:, None], float("nan"), train(self, x, *more)
                )
            )
            or y
        ),
    )
    history, _ = outcome(problem_of(on_client_failure="drop", client_retries=0))
    assert history[-1].dropped >= 1 and f"client {BROKEN}: local training diverged" in caplog.text


@pytest.mark.parametrize(
    "name, kind, field, told",
    [
        ("fedavg", 0, "delta", "its upload 'delta' holds NaN or Inf"),
        ("fedsmu", 1, "m", "its state 'm' holds NaN or Inf"),
        ("scaffold", 1, "c", "its state 'c' holds NaN or Inf"),
    ],
)
def test_a_client_whose_upload_or_state_is_not_finite_is_dropped(
    name, kind, field, told, monkeypatch, caplog
):
    """It is the client of the group that is named and dropped; the others' uploads count."""
    problem = problem_of(name, group=6, on_client_failure="drop", client_retries=0)
    honest = type(problem.method).client

    def client(self, received, state, local):
        results = honest(self, received, state, local)
        ill = (local.clients == BROKEN)[:, None]
        results[kind][field].masked_fill_(ill, float("inf"))
        return results

    monkeypatch.setattr(type(problem.method), "client", client)
    history, _ = outcome(problem)
    assert f"client {BROKEN}: local training diverged ({told})" in caplog.text
    assert history[-1].dropped == sum(BROKEN in sample_cohort(0, t, 12, 6) for t in range(1, 5))


def test_too_few_participants_end_the_run(misbehave):
    misbehave(raises, ALWAYS)
    with pytest.raises(
        ClientError,
        match=r"round \d: only 5 of 6 sampled clients can take part, but federation.min_cohort = 6 "
        r"are required \(1 failed, the last one: round",
    ):
        outcome(problem_of(on_client_failure="drop", min_cohort=6))
    with pytest.raises(
        ClientError,
        match=r"round \d: only \d of 6 sampled clients can take part, but federation.min_cohort = "
        r"5 are required \(\d dropped out\)",
    ):
        outcome(problem_of(dropout=0.9, min_cohort=5))


def test_drop_out_is_drawn_from_the_seed_and_costs_the_download():
    problem = problem_of(dropout=0.4, rounds=6)
    history, sha256 = outcome(problem)
    assert outcome(problem)[1] == sha256 != outcome(problem_of(rounds=6))[1]
    answered = [len(drop_out(0, t, sample_cohort(0, t, 12, 6), 0.4)) for t in range(1, 7)]
    one = message.length(problem.uplink, problem.dim)
    assert history[-1].dropped == 36 - sum(answered) > 0
    assert history[-1].uplink_bytes == sum(answered) * one
    assert history[-1].downlink_bytes == 36 * message.length(problem.downlink, problem.dim)
    grouped = outcome(problem_of(dropout=0.4, rounds=6, group=6))[0]
    assert [r.dropped for r in grouped] == [r.dropped for r in history]
