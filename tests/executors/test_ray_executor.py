"""The executor on Ray: same bits as inline, with any number of actors and after failures."""

import hashlib
import re
import sys

import pytest
import torch

from fedsmu_ray.errors import ClientError, ConfigError
from fedsmu_ray.federation import states
from fedsmu_ray.federation.records import Progress
from fedsmu_ray.federation.rounds import rounds
from fedsmu_ray.federation.server import Server
from tests.helpers.experiments import inline, outcome, problem_of

METHODS = [{"name": "fedsmu"}, {"name": "fedsmu", "zero_rule": "zero"}, {"name": "fedavg"}]


@pytest.fixture(
    scope="module", params=[2, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 4))]
)
def executor(ray_cluster, request):
    """An executor of so many client actors, loaded with one experiment after another."""
    from fedsmu_ray.executors.ray_executor import RayExecutor

    executor = RayExecutor(problem_of({"name": "fedavg"}).config.compute, request.param)
    yield executor
    executor.close()


def one_call(monkeypatch, seconds=100.0):
    """Each actor gets its share of a round in one call, of so many seconds."""
    from fedsmu_ray.executors import ray_calls

    monkeypatch.setattr(ray_calls, "CALL_S", seconds)
    monkeypatch.setattr(ray_calls, "LONGEST_CALL_S", seconds)


@pytest.mark.parametrize("algorithm", METHODS, ids=str)
def test_same_bits_for_inline_and_any_number_of_actors(algorithm, executor):
    problem = problem_of(algorithm)
    history, sha256, params = inline(problem)
    assert (
        inline(problem)[1] == sha256 == hashlib.sha256(params.astype("<f4").tobytes()).hexdigest()
    )
    assert inline(problem_of(algorithm, seed=1))[1] != sha256
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


@pytest.mark.parametrize("algorithm", [{"name": "fedsmu"}, {"name": "dlion"}], ids=str)
def test_clients_are_evaluated_with_the_bits_of_an_inline_run(algorithm, executor):
    evaluation = {"clients": 20, "personalise": {"epochs": 1}}
    problem = problem_of(algorithm, evaluation=evaluation)
    history, sha256, _ = inline(problem)
    executor.load(problem)
    progress = Progress()
    got = list(rounds(problem, executor, progress))
    assert executor.sha256() == sha256 and len(progress.clients) == 20
    assert [r.scores for r in got] == [r.scores for r in history]


@pytest.mark.parametrize("algorithm", [{"name": "fedsmu"}, {"name": "dlion"}], ids=str)
def test_a_run_that_stops_early_has_the_bits_of_an_inline_one(algorithm, executor):
    federation = {"rounds": 9, "cohort": 7, "eval_every": 2}
    federation["stop"] = {"metric": "train/loss", "target": 100.0, "min_rounds": 3}
    data = {"clients": 30, "validation": 0.25}
    problem = problem_of(algorithm, federation=federation, data=data)
    history, sha256, _ = inline(problem)
    executor.load(problem)
    got, got_sha256, _ = outcome(problem, executor)
    assert [r.round for r in got] == [1, 2, 3, 4] and got_sha256 == sha256
    scores = [(r.train_loss, r.val_loss, r.test_loss, r.downlink_bytes) for r in history]
    assert [(r.train_loss, r.val_loss, r.test_loss, r.downlink_bytes) for r in got] == scores


@pytest.mark.parametrize("algorithm", METHODS[1:], ids=str)
@pytest.mark.parametrize("in_process", [True, False])
def test_same_bits_wherever_the_server_is_and_with_messages_in_parts(
    algorithm, in_process, executor, monkeypatch
):
    from fedsmu_ray.executors import ray_actors, ray_executor, ray_server

    problem = problem_of(algorithm, compute={"clients_per_task": 1, "cpus_per_actor": 0.1})
    monkeypatch.setattr(ray_executor, "IN_PROCESS_DIM", problem.dim - (not in_process))
    monkeypatch.setattr(ray_actors, "PART_BYTES", 100)
    one_call(monkeypatch)
    monkeypatch.setattr(ray_server, "INLINE_BYTES", 100)
    executor.load(problem)
    assert isinstance(executor.server, ray_server.ServerInProcess) == in_process
    assert executor._returned(0, 2).parts > 3
    assert outcome(problem, executor)[1] == inline(problem)[1]


def test_dense_uploads_are_added_up_where_they_are_made(executor, monkeypatch):
    """The server gets sums; where the magnitudes of the uploads are measured, messages."""
    problem = problem_of({"name": "scaffold"}, federation={"rounds": 4, "eval_every": 3})
    expected = inline(problem)[1]
    executor.load(problem)
    got = {"merge": [], "receive": []}
    for name, calls in got.items():
        method = getattr(Server, name)

        def spy(self, *arguments, method=method, calls=calls):
            calls.append(self.round)
            return method(self, *arguments)

        monkeypatch.setattr(Server, name, spy)
    assert outcome(problem, executor)[1] == expected
    assert set(got["merge"]) == {1, 2} and set(got["receive"]) == {3, 4}


def test_states_of_groups_in_one_call_share_a_shard(executor, monkeypatch):
    problem = problem_of({"name": "fedsmu"}, compute={"clients_per_task": 1})
    one_call(monkeypatch)
    executor.load(problem)
    progress = Progress()
    list(rounds(problem, executor, progress))
    refs = progress.states.latest.values()
    assert len({ref.shard for ref in refs}) < len(refs)
    assert executor.sha256() == inline(problem)[1]


@pytest.mark.parametrize("name", ["fedsmu", "dlion"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_large_states_share_no_shard_where_they_move(name, nodes, executor, monkeypatch):
    from fedsmu_ray.executors import ray_executor

    problem = problem_of({"name": name}, federation={"rounds": 6, "cohort": 7})
    monkeypatch.setattr(states, "MOST_ROWS", 1.0)
    monkeypatch.setattr(states, "IGNORED_SHARDS", 0)
    monkeypatch.setattr(ray_executor, "OWN_SHARD_BYTES", 1)
    monkeypatch.setattr(ray_executor, "nodes", lambda: [object()] * nodes)
    executor.load(problem)
    progress = Progress()
    list(rounds(problem, executor, progress))
    refs = progress.states.latest.values()
    assert (len({ref.shard for ref in refs}) == len(refs)) == (nodes == 2)
    assert executor.sha256() == inline(problem)[1]


def test_copied_states_change_no_bit(executor, monkeypatch):
    problem = problem_of({"name": "fedsmu"}, federation={"rounds": 12, "cohort": 7})
    history, sha256, _ = inline(problem)
    monkeypatch.setattr(states, "MOST_ROWS", 1.0)
    monkeypatch.setattr(states, "IGNORED_SHARDS", 0)
    executor.load(problem)
    progress = Progress()
    got = list(rounds(problem, executor, progress))
    assert executor.sha256() == sha256
    assert [r.train_loss for r in got] == [r.train_loss for r in history]
    assert progress.states.rows < 1.3 * len(progress.states.latest)  # 1.8 without copies


def test_what_is_drawn_for_a_users_model_is_the_same_in_all_processes(executor):
    def problem_with(model, **options):
        name = f"import:tests.helpers.random_models:{model}"
        return problem_of({"name": "fedavg"}, model={"name": name, "options": options})

    for problem in (
        problem_with("fixed", draw="process", place="buffer"),  # another one in every process
        problem_with("noisy", how="numpy"),
    ):
        executor.load(problem)
        assert outcome(problem, executor)[1] == inline(problem)[1]
    with pytest.raises(ConfigError, match="fixed: built in another process.* different outputs"):
        executor.load(problem_with("fixed", draw="process", place="attribute"))


def test_actors_loaded_with_another_experiment_keep_nothing_of_the_first(ray_cluster):
    from fedsmu_ray.executors.ray_executor import RayExecutor

    first, second = problem_of({"name": "fedsmu"}), problem_of({"name": "fedavg"}, seed=5)
    torch.set_num_threads(2)
    executor = RayExecutor(first.config.compute, 2)
    try:
        for problem in (first, second, first):
            executor.load(problem)
            assert outcome(problem, executor)[1] == inline(problem)[1]
            assert torch.get_num_threads() == 1  # of the server, in this process
    finally:
        executor.close()
    assert torch.get_num_threads() == 2


def test_tasks_of_a_lost_actor_are_retried_without_changing_the_result(ray_cluster, caplog):
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
                actor = executor.clients.actors[0]
                ray.kill(actor)
                with pytest.raises(ray.exceptions.RayActorError):  # once it is dead
                    while True:
                        ray.get(actor.__ray_call__.remote(lambda self: None))
        assert executor.sha256() == inline(problem)[1] and len(history) == 4
        assert re.search(r"client actor 0 \(\S+, process \d+\) was lost \(", caplog.text)
        assert "; retry 1 of 3 on another actor" in caplog.text
    finally:
        executor.close()


def test_errors_of_clients_keep_their_type_and_message(ray_cluster):
    from fedsmu_ray.executors.ray_executor import RayExecutor

    problem = problem_of({"name": "fedavg", "profile": "paper"}, local={"lr": 1e30})
    executor = RayExecutor(problem.config.compute, 1)
    try:
        executor.load(problem)
        with pytest.raises(ClientError, match="round 1, client .* diverged"):
            list(rounds(problem, executor))
    finally:
        executor.close()


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
            executor.clients.actors[0].__ray_call__.remote(
                lambda self: self.worker.problem.dataset.train_x.flags.writeable
            )
        )
        assert outcome(executor.problem, executor)[1] == inline(problem)[1]
    finally:
        executor.close()


@pytest.mark.slow
def test_a_client_that_raises_does_not_affect_the_others_of_its_call(
    ray_cluster, monkeypatch, caplog
):
    from ray import cloudpickle

    from fedsmu_ray.executors import ray_actors, ray_executor

    cloudpickle.register_pickle_by_value(sys.modules[__name__])

    class Raising(ray_actors.ClientActor):
        def train(self, group, broadcast, *shards):
            if group.task.position == 3 and group.task.round in (2, 3):
                raise OSError("no more data")
            return super().train(group, broadcast, *shards)

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
        one_call(monkeypatch, fill)
        executor = ray_executor.RayExecutor(problem.config.compute, 2)
        submit = executor._submit

        def counted(index, tasks, losses, message, submit=submit, fill=fill):
            calls.append((fill, len(tasks)))
            return submit(index, tasks, losses, message)

        monkeypatch.setattr(executor, "_submit", counted)
        try:
            executor.load(problem)
            results.append(gaps(executor))
        finally:
            executor.close()
    assert results[0] == results[1] and results[0][0][-1][1] == 2
    assert (100.0, 4) in calls and max(n for fill, n in calls if not fill) == 1
    assert re.search(
        r"round 2, client \d+: OSError: no more data \(.*test_ray_executor.py:\d+ on \S+, "
        r"process \d+\); client \d+ is dropped from round 2",
        caplog.text,
    )
