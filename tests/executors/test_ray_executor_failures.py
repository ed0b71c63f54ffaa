"""Real losses of processes and objects during an experiment: same bits as undisturbed."""

import os
import random
import signal
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ClientError, LostError
from fedsmu_ray.experiment.resume import resumable
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress
from tests.helpers.experiments import inline_executor

pytestmark = pytest.mark.slow


def problem_of(algorithm="fedsmu", rounds=6, **federation):
    return Problem.of(
        parse(
            {
                "data": {"clients": 20},
                "model": {"hidden": [32]},
                "algorithm": {"name": algorithm},
                "local": {"epochs": 1, "batch_size": 20},
                "federation": {"rounds": rounds, "cohort": 6, "eval_every": 2, **federation},
                "checkpoint": {"every": 2},
                "compute": {"clients_per_task": 2, "cpus_per_actor": 0.25},
            }
        )
    )


def figures(history):
    return [
        (
            r.round,
            r.cohort,
            r.train_loss,
            r.test_accuracy,
            r.test_loss,
            r.uplink_bytes,
            r.downlink_bytes,
            r.dropped,
        )
        for r in history
    ]


def outcome(problem, executor, folder=None, disturb=None):
    """Run the experiment; returns records and hash. disturb(record) is called between rounds."""
    history = []
    for record in resumable(problem, executor, Progress(), folder):
        history.append(record)
        if disturb:
            disturb(record)
    return figures(history), executor.sha256()


def undisturbed(problem):
    executor = inline_executor(problem)
    try:
        return outcome(problem, executor)
    finally:
        executor.close()


@pytest.fixture
def started(ray_cluster, monkeypatch):
    """A function that starts and loads an executor; `client_class` replaces its client actors."""
    from fedsmu_ray.executors import ray_actors, ray_executor

    made = []

    def start(problem, count=2, client_class=None):
        if client_class:
            monkeypatch.setattr(ray_actors, "ClientActor", client_class)
        made.append(ray_executor.RayExecutor(problem.config.compute, count))
        made[-1].load(problem)
        return made[-1]

    yield start
    for executor in made:
        executor.close()


@pytest.fixture
def server_actor(monkeypatch):
    """Has the server be an actor, as for large models."""
    from fedsmu_ray.executors import ray_executor

    monkeypatch.setattr(ray_executor, "IN_PROCESS_DIM", 0)


def misbehaving(what, flag, round=3):
    """A class of client actors, one of which once returns `what(result)` instead of its result.

    The flag file exists from then on.
    """
    from ray import cloudpickle

    from fedsmu_ray.executors.ray_actors import ClientActor

    cloudpickle.register_pickle_by_value(
        sys.modules[__name__]
    )  # the actors cannot import this file

    class Misbehaving(ClientActor):
        def train(self, group, broadcast, *shards):
            result, task = super().train(group, broadcast, *shards), group.task
            if task.round == round and task.position == 2 and not flag.exists():
                flag.touch()
                return what(result)
            return result

    return Misbehaving


def dies(result):
    os.kill(os.getpid(), signal.SIGKILL)


def raises(result):
    raise OSError("a bad moment")


def altered(result):
    result.messages[0, 40] ^= 1
    return result


@pytest.fixture
def hung(tmp_path, monkeypatch):
    """A function that is called by a task which then hangs: the clock of time limits moves only so.

    What is in flight at that moment is out of time, and nothing else ever is.
    """
    from fedsmu_ray.executors import ray_executor

    clock = SimpleNamespace(monotonic=lambda: 1000.0 * len(list(tmp_path.glob("hung-*"))))
    monkeypatch.setattr(ray_executor, "time", clock)
    return lambda: (tmp_path / f"hung-{time.time_ns()}").touch()


@pytest.mark.parametrize(
    "what, said",
    [
        (dies, "was lost (ActorDiedError: "),
        (raises, "OSError: a bad moment"),
        (altered, "checksum mismatch"),
    ],
)
def test_a_client_task_that_fails_once(what, said, started, tmp_path, caplog):
    problem = problem_of()
    executor = started(problem, 2, misbehaving(what, tmp_path / "flag"))
    got = outcome(problem, executor)
    assert (tmp_path / "flag").exists() and got == undisturbed(problem)
    assert said in caplog.text


def test_a_client_task_that_hangs_once(started, hung, tmp_path, caplog):
    def hangs(result):
        hung()
        os.kill(os.getpid(), signal.SIGSTOP)

    problem = problem_of(client_timeout_s=0.5)
    executor = started(problem, 2, misbehaving(hangs, tmp_path / "flag"))
    assert outcome(problem, executor) == undisturbed(problem)
    assert "no result within 1 s" in caplog.text


@pytest.mark.parametrize("once", [True, False])
def test_an_actor_with_a_cuda_error_is_replaced(once, started, tmp_path, caplog):
    """As on a card, every further call in the process raises the error, too."""
    from ray import cloudpickle

    from fedsmu_ray.executors.ray_actors import ClientActor

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    flag, said = tmp_path / "flag", "CUDA error: an illegal memory access was encountered"

    class Broken(ClientActor):
        broken = False

        def train(self, group, broadcast, *shards):
            if group.task.round == 3 and not (once and flag.exists()):
                flag.touch()
                self.broken = True
            if self.broken:
                raise RuntimeError(f"{said}\nCompile with TORCH_USE_CUDA_DSA")
            return super().train(group, broadcast, *shards)

    problem = problem_of(client_retries=0)
    executor = started(problem, 1, Broken)
    if once:
        assert outcome(problem, executor) == undisturbed(problem)
        assert flag.exists()
    else:
        with pytest.raises(ClientError, match=rf"its actor was lost 4 times \(.*{said}\)"):
            outcome(problem, executor)
    assert f") was lost (BrokenGPUError: {said}); retry 1 of 3" in caplog.text


def test_a_client_that_always_hangs_is_dropped_and_reported(started, hung, caplog):
    from fedsmu_ray.executors.ray_actors import ClientActor

    class Hanging(ClientActor):
        def train(self, group, broadcast, *shards):
            if 4 in group.task.clients:
                hung()
                os.kill(os.getpid(), signal.SIGSTOP)
            return super().train(group, broadcast, *shards)

    def until_hit(seed=0):
        from fedsmu_ray.federation.cohort import sample_cohort

        return next(t for t in range(1, 20) if 4 in sample_cohort(seed, t, 20, 6))

    options = {"rounds": until_hit(), "client_timeout_s": 0.5, "client_retries": 0}
    problem = problem_of(**options, on_client_failure="drop")
    history, _ = outcome(problem, started(problem, 1, Hanging))
    assert history[-1][-1] == 1 and "client 4 is dropped" in caplog.text
    with pytest.raises(
        ClientError, match="no result within 1 s .federation.client_timeout_s = 0.5 for each client"
    ):
        outcome(problem_of(**options), started(problem_of(**options), 1, Hanging))


@pytest.mark.parametrize("algorithm, checkpoints", [("fedsmu", True), ("dlion", False)])
def test_the_server_actor_is_killed(
    algorithm, checkpoints, started, server_actor, tmp_path, caplog
):
    problem = problem_of(algorithm)
    executor = started(problem)
    pids = []

    def disturb(record):
        if record.round in (1, 4) and len(pids) < 2:
            pids.append(pid_of(executor.server.actor))
            os.kill(pids[-1], signal.SIGKILL)

    got = outcome(problem, executor, tmp_path if checkpoints else None, disturb)
    assert got == undisturbed(problem) and len(set(pids)) == 2
    assert (
        caplog.text.count("restarting from") == 2
        and ("the last checkpoint" if checkpoints else "round 1 (checkpoint.every is not set")
        in caplog.text
    )


def test_a_server_that_is_lost_repeatedly_ends_the_run(started, server_actor, monkeypatch, caplog):
    problem = problem_of(rounds=2)
    executor = started(problem, 1)
    recover = executor.recover
    monkeypatch.setattr(
        executor,
        "recover",
        lambda: (recover(), os.kill(pid_of(executor.server.actor), signal.SIGKILL)),
    )
    os.kill(pid_of(executor.server.actor), signal.SIGKILL)
    with pytest.raises(LostError, match="round 1.*: the server actor was lost"):
        outcome(problem, executor)
    assert "restart 3 of at most 3 in a row" in caplog.text


def test_client_states_lost_from_the_object_store(started, tmp_path, caplog):
    """An object is lost with the process that owns it: here a process that is then killed."""
    import ray

    class Owner:
        def put(self, arrays):
            return [ray.put(arrays)]

    problem = problem_of()
    executor, progress, owner, history = started(problem), Progress(), None, []
    for record in resumable(problem, executor, progress, tmp_path):
        history.append(record)
        if record.round == 4 and not owner:
            owner = ray.remote(Owner).options(num_cpus=0).remote()
            moved = {
                at.shard: ray.get(owner.put.remote(executor.get_shard(at.shard)))[0]
                for at in progress.states.latest.values()
            }
            progress.states.update(
                {
                    client: replace(at, shard=moved[at.shard])
                    for client, at in progress.states.latest.items()
                }
            )
            ray.kill(owner)
            with pytest.raises(ray.exceptions.ObjectLostError):  # Ray notices after a moment
                for _ in range(1200):
                    ray.get(next(iter(moved.values())), timeout=120)
                    time.sleep(0.1)
    assert owner and (figures(history), executor.sha256()) == undisturbed(problem)
    assert (
        "lost (OwnerDiedError" in caplog.text
        and "restarting from the last checkpoint" in caplog.text
    )


def test_eight_client_actors_killed_at_random_moments(started, caplog):
    """Actors that have been loaded: one that is lost too often while it starts is given up."""
    problem = problem_of(rounds=100_000)  # as many as eight kills take
    executor = started(problem, 3)
    kills, chance, stop = [], random.Random(1), threading.Event()

    def killer():
        loaded = []
        while len(kills) < 8 and not stop.wait(chance.uniform(0.5, 2.0)):
            if not loaded and not executor.clients.loading:
                family = psutil.Process().children(recursive=True)
                loaded = [p for p in family if title(p).startswith("ray::ClientActor")]
            if loaded:
                victim = loaded.pop(chance.randrange(len(loaded)))
                victim.kill()
                kills.append(victim.pid)

    thread = threading.Thread(target=killer)
    thread.start()
    history = []
    try:
        for record in resumable(problem, executor, Progress(), None):
            history.append(record)
            if not thread.is_alive() and record.test_accuracy is not None:
                break
            time.sleep(0.2)
    finally:
        stop.set()
        thread.join()
    assert len(set(kills)) == 8 and caplog.text.count("was lost") >= 4
    assert figures(history) == undisturbed(problem_of(rounds=len(history)))[0]


def title(process):
    try:
        return "".join(process.cmdline()[:1])
    except psutil.Error:  # the process has ended
        return ""


def pid_of(actor):
    import ray

    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
