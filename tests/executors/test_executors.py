"""One experiment, the same bits wherever and however it runs."""

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ClientError, DivergenceError
from fedsmu_ray.executors.inline import InlineExecutor
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.rounds import rounds, sample_cohort
from fedsmu_ray.federation.server import RejectedMessages, Server
from fedsmu_ray.wire import message

METHODS = [{"name": "fedsmu"}, {"name": "fedsmu", "zero_rule": "zero"}, {"name": "fedavg"}]


def problem_of(algorithm, seed=0, **more):
    return Problem.of(
        parse(
            {
                "seed": seed,
                "data": {"clients": 30},
                "model": {"hidden": [32]},
                "algorithm": algorithm,
                "local": {"epochs": 2, "batch_size": 20},
                "federation": {"rounds": 4, "cohort": 7, "eval_every": 2},
                "compute": {"clients_per_task": 3, "cpus_per_actor": 0.1},
                **more,
            }
        )
    )


def outcome(problem, executor):
    history = list(rounds(problem, executor))
    return history, executor.sha256(), executor.params()


def inline(problem):
    executor = InlineExecutor(problem)
    try:
        return outcome(problem, executor)
    finally:
        executor.close()


@pytest.fixture(scope="module")
def executors(ray_cluster):
    """Executors of 1, 2 and 4 client actors, to be given one experiment after another."""
    from fedsmu_ray.executors.ray_executor import RayExecutor

    made = [
        RayExecutor(problem_of({"name": "fedavg"}).config.compute, actors) for actors in (1, 2, 4)
    ]
    yield made
    for executor in made:
        executor.close()


@pytest.mark.parametrize("algorithm", METHODS, ids=str)
def test_same_bits_for_inline_and_any_number_of_actors(algorithm, executors):
    problem = problem_of(algorithm)
    history, sha256, params = inline(problem)
    assert (
        inline(problem)[1] == sha256 == hashlib.sha256(params.astype("<f4").tobytes()).hexdigest()
    )
    assert inline(problem_of(algorithm, seed=1))[1] != sha256
    for executor in executors:
        executor.load(problem)
        got, got_sha256, _ = outcome(problem, executor)
        assert got_sha256 == sha256
        for a, b in zip(got, history):
            assert (a.cohort, a.train_loss, a.test_accuracy, a.test_loss, a.uplink_bytes) == (
                b.cohort,
                b.train_loss,
                b.test_accuracy,
                b.test_loss,
                b.uplink_bytes,
            )


def test_actors_given_another_experiment_keep_nothing_of_the_first(ray_cluster):
    from fedsmu_ray.executors.ray_executor import RayExecutor

    first, second = problem_of({"name": "fedsmu"}), problem_of({"name": "fedavg"}, seed=5)
    executor = RayExecutor(first.config.compute, 2)
    try:
        for problem in (first, second, first):
            executor.load(problem)
            assert outcome(problem, executor)[1] == inline(problem)[1]
    finally:
        executor.close()


def test_a_lost_actor_costs_a_retry_and_no_bits(ray_cluster, caplog):
    import ray

    from fedsmu_ray.executors.ray_executor import RayExecutor

    problem = problem_of({"name": "fedsmu"})
    executor = RayExecutor(problem.config.compute, 2)
    try:
        executor.load(problem)
        history = []
        for record in rounds(problem, executor):
            history.append(record)
            if record.round == 1:
                ray.kill(executor.clients[0])
        assert executor.sha256() == inline(problem)[1] and len(history) == 4
        assert "client actor 0 was lost; retry 1 of 3 on another one" in caplog.text
    finally:
        executor.close()


def test_errors_of_clients_come_through_as_they_are(ray_cluster):
    from fedsmu_ray.executors.ray_executor import RayExecutor

    problem = problem_of({"name": "fedavg", "profile": "paper"}, local={"lr": 1e30})
    executor = RayExecutor(problem.config.compute, 1)
    try:
        executor.load(problem)
        with pytest.raises(ClientError, match="round 1, client .* diverged"):
            list(rounds(problem, executor))
    finally:
        executor.close()


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


def test_cohorts_are_uniform_and_independent_of_the_method():
    assert sample_cohort(3, 5, 30, 7) == sample_cohort(3, 5, 30, 7) != sample_cohort(3, 6, 30, 7)
    counts = np.bincount([c for t in range(3000) for c in sample_cohort(0, t, 30, 7)], minlength=30)
    expected = 3000 * 7 / 30
    assert abs(counts - expected).max() < 5 * (expected * (1 - 7 / 30)) ** 0.5


def upload(problem, clients, round=1):
    values = {"delta": torch.arange(1.0, len(clients) + 1)[:, None].expand(-1, problem.dim) * 1e-3}
    return message.encode(problem.uplink, values, round, clients)


def test_server_takes_groups_in_any_order_and_adds_in_cohort_order():
    problem = problem_of({"name": "fedavg"})
    groups = [(0, (4, 5)), (2, (9,)), (3, (11, 20))]
    models = []
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        server = Server(problem)
        server.open_round(1, False)
        for i in order:
            server.receive(*groups[i], upload(problem, groups[i][1]))
        assert server.step().clients == 5
        models.append(server.sha256())
    assert len(set(models)) == 1


def test_server_refuses_what_is_not_of_this_round_or_altered_and_takes_another_in_its_place():
    problem = problem_of({"name": "fedavg"})
    altered = upload(problem, [3], round=2)
    altered[0, 500] ^= 1
    nan = message.encode(
        problem.uplink, {"delta": torch.full((1, problem.dim), float("nan"))}, 2, [3]
    )
    server, undisturbed = Server(problem), Server(problem)
    undisturbed.open(2, False)
    server.open_round(2, False)
    for bad, told in (
        (upload(problem, [3], round=1), "header says round 1, expected 2"),
        (altered, "client 3: checksum mismatch"),
        (nan, r"clients \[3\], field 'delta': row 0 holds NaN or Inf"),
        (altered[:, :-1], "expected 1 of"),
    ):
        server.receive(0, (3,), bad)
        refused = server.step()
        assert (
            isinstance(refused, RejectedMessages)
            and list(refused.errors) == [0]
            and re.search(told, str(refused.errors[0]))
        )
    for one in (server, undisturbed):
        one.receive(1, (7,), upload(problem, [7], round=2))
        one.receive(0, (3,), upload(problem, [3], round=2))
        assert one.step().clients == 2
    assert server.sha256() == undisturbed.sha256()


def test_server_goes_on_without_positions_that_are_missing():
    problem = problem_of({"name": "fedavg"})
    whole, gaps = Server(problem), Server(problem)
    whole.open(1, False)
    gaps.open(1, False)
    whole.receive(0, (3, 9), upload(problem, [3, 9]))
    gaps.receive(3, (9,), upload(problem, [3, 9])[1:])
    gaps.receive(1, (3,), upload(problem, [3, 9])[:1])
    assert gaps.step([2, 0]).clients == whole.step().clients == 2
    assert gaps.sha256() == whole.sha256()


def test_server_refuses_a_model_that_is_not_finite():
    server = Server(problem := problem_of({"name": "fedavg", "lr": 1e38}))
    server.open_round(1, False)
    server.receive(
        0,
        (3,),
        message.encode(problem.uplink, {"delta": torch.full((1, problem.dim), 1e10)}, 1, [3]),
    )
    with pytest.raises(DivergenceError, match="round 1: the server model holds NaN or Inf"):
        server.step()


def test_a_cluster_that_is_gone_is_not_joined(tmp_path):
    """Ray keeps the address of the latest cluster in a file; one that crashed leaves it behind."""
    note = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    before = note.read_text() if note.exists() else None
    note.parent.mkdir(exist_ok=True)
    note.write_text("127.0.0.1:1")
    try:
        code = "from fedsmu_ray.execution import cluster\nwith cluster.cluster() as where: print(where)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.stdout.startswith("a local Ray on this machine"), done.stderr
    finally:
        note.write_text(before) if before else note.unlink(missing_ok=True)


def test_the_data_set_is_one_object_for_all_processes(ray_cluster):
    import ray

    from fedsmu_ray.executors.ray_cluster import store
    from fedsmu_ray.executors.ray_executor import RayExecutor

    problem = problem_of({"name": "fedavg"})
    (stored,) = store(problem.dataset)
    executor = RayExecutor(problem.config.compute, 1)
    try:
        executor.load(problem, stored)
        assert executor.stored[1] is stored and not executor.problem.dataset.train_x.flags.writeable
        assert not ray.get(
            executor.clients[0].__ray_call__.remote(
                lambda self: self.worker.problem.dataset.train_x.flags.writeable
            )
        )
        assert outcome(executor.problem, executor)[1] == inline(problem)[1]
    finally:
        executor.close()


def test_a_call_holds_as_many_short_tasks_as_are_worth_it():
    from collections import deque

    from fedsmu_ray.executors.ray_executor import FILL_S, RayExecutor
    from fedsmu_ray.federation.tasks import Evaluate, Train

    def next_call(tasks, idle, pace=FILL_S / 4.5, **federation):
        executor = object.__new__(RayExecutor)
        executor.problem = problem_of({"name": "fedavg"}, federation={"cohort": 7, **federation})
        executor.pace = pace
        got, attempt = executor._next(todo := deque(tasks), idle)
        assert [*((t, attempt) for t in got), *todo] == list(
            tasks
        )  # nothing is lost, and the order is kept
        return len(got)

    fresh = [(Train(1, i, (i,), (None,)), 0) for i in range(10)]
    lost = [(task, 1) for task, _ in fresh]
    score = [(Evaluate(1, 0, 100), 0)]
    assert next_call(fresh, idle=1) == 4  # as many as fit
    assert next_call(fresh, idle=4) == 3  # as many as leave work for the others
    assert next_call(fresh[:1], idle=1) == 1
    assert next_call(fresh, idle=1, pace=float("inf")) == next_call(fresh, idle=1, pace=FILL_S) == 1
    assert (
        next_call(fresh[:2] + score + fresh[2:], idle=1) == 2
        and next_call(score + fresh, idle=1) == 1
    )
    assert (
        next_call(lost, idle=1) == 1 and next_call(fresh[:2] + lost, idle=1) == 2
    )  # what took its actor down goes alone
    assert next_call(fresh, idle=1, client_timeout_s=5.0) == 1


def test_a_client_that_raises_takes_none_with_it_that_share_its_call(
    ray_cluster, monkeypatch, caplog
):
    from ray import cloudpickle

    from fedsmu_ray.executors import ray_actors, ray_executor

    cloudpickle.register_pickle_by_value(sys.modules[__name__])

    class Raising(ray_actors.ClientActor):
        def train(self, task, rows, broadcast, *shards):
            if task.position == 3 and task.round in (2, 3):
                raise OSError("no more data")
            return super().train(task, rows, broadcast, *shards)

    def gaps(executor):
        history, sha256, _ = outcome(executor.problem, executor)
        return [(r.cohort, r.dropped, r.train_loss, r.test_accuracy) for r in history], sha256

    problem = problem_of(
        {"name": "fedsmu"},
        federation={
            "rounds": 4,
            "cohort": 7,
            "eval_every": 2,
            "client_retries": 0,
            "on_client_failure": "drop",
        },
        compute={"clients_per_task": 1, "cpus_per_actor": 0.1},
    )
    monkeypatch.setattr(ray_actors, "ClientActor", Raising)
    results, calls = [], []
    for fill in (0.0, 100.0):
        monkeypatch.setattr(ray_executor, "FILL_S", fill)
        executor = ray_executor.RayExecutor(problem.config.compute, 2)
        submit = executor._submit
        monkeypatch.setattr(
            executor,
            "_submit",
            lambda index, tasks, *more, submit=submit, fill=fill: (
                calls.append((fill, len(tasks))) or submit(index, tasks, *more)
            ),
        )
        try:
            executor.load(problem)
            results.append(gaps(executor))
        finally:
            executor.close()
    assert results[0] == results[1] and results[0][0][-1][1] == 2
    assert (100.0, 4) in calls and max(n for fill, n in calls if not fill) == 1
    assert re.search(
        r"round 2, client \d+: OSError: no more data \(.*test_execution.py:\d+\); client \d+ is dropped from round 2",
        caplog.text,
    )
