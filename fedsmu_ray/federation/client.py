"""The client side of a round: a client group from the broadcast to its messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsmu_ray.algorithms.base import State
from fedsmu_ray.algorithms.checks import call_hook, check_clients_finite, check_names
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.federation.aggregation import adds_up_early
from fedsmu_ray.federation.client_evaluation import evaluate_clients, training_losses
from fedsmu_ray.federation.dry_run import check_on_gpu
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.spans import Spans, measured
from fedsmu_ray.federation.state_cache import StateCache
from fedsmu_ray.federation.tasks import (
    Arrays,
    ClientScore,
    Evaluate,
    EvaluateClients,
    Evaluation,
    Makers,
    TrainReport,
)
from fedsmu_ray.federation.trainer import Trainer
from fedsmu_ray.numerics import gpu, parameters
from fedsmu_ray.numerics.allocator import keep_freed_memory
from fedsmu_ray.numerics.parameters import as_tensor
from fedsmu_ray.objectives.imported import ImportedLoss
from fedsmu_ray.objectives.scores import Score
from fedsmu_ray.wire import message
from fedsmu_ray.wire.base import Fields

T = TypeVar("T")


class Receiver(Protocol):
    """What takes the uploads of groups: the server, or the `Aggregator` of a client actor."""

    def add(self, position: int, clients: Sequence[int], uploads: State) -> None:
        """Take uploads that do not leave this process."""

    def receive(self, position: int, clients: Sequence[int], messages: NDArray[np.uint8]) -> None:
        """Take messages."""


@dataclass(frozen=True)
class GroupOutput:
    """What a client group returns from one round."""

    uploads: State  # of every field [C, P], as they are after `compress`
    report: TrainReport
    states: Arrays  # the new states, named [C, P]; empty for stateless clients
    encode: Callable[[], NDArray[np.uint8]]  # makes `messages`
    may_stay: bool  # whether a receiver in this process may keep the uploads as they are

    @cached_property
    def messages(self) -> NDArray[np.uint8]:
        """The uploads as messages, uint8 [C, bytes], encoded when they are asked for."""
        return self.encode()

    def pass_on(self, position: int, clients: Sequence[int], to: Receiver) -> None:
        """Pass the uploads on inside this process.

        Dense floats are added up as they are: as messages they would be copied, and checked for
        what can only happen on the way.
        """
        if self.may_stay:
            to.add(position, clients, self.uploads)
        else:
            to.receive(position, clients, self.messages)


class ClientWorker:
    """Runs the tasks of client groups, and evaluations.

    Tasks are pure: the result depends on the arguments and the problem only.
    """

    def __init__(self, problem: Problem, spans: Spans | None = None) -> None:
        """spans: that this process measures already; default: its own."""
        compute = problem.config.compute
        # Always set, since the number of threads decides how sums are rounded.
        keep_freed_memory()
        torch.set_num_threads(max(1, int(compute.cpus_per_actor)))
        self.device = torch.device("cpu")
        if compute.gpus_per_actor:
            self.device = gpu.prepare(compute.gpus_per_actor, compute.precision)
        self.problem, self.method = problem, problem.method
        self.spans = spans or Spans(problem.profiled)
        probed = problem.probed
        if self.device.type == "cuda":
            new = problem.module().to(self.device)
            plan = check_on_gpu(new, problem.config, problem.dataset, probed, problem.loss)
            probed = replace(probed, plan=plan)
        module = problem.module().to(self.device)
        self.initial = parameters.flatten(module)
        self.state_names = set(self.method.client_init(self.initial))
        self.trainer = Trainer(
            module,
            DeviceData(problem.dataset, self.device),
            problem.partition,
            problem.config.local,
            problem.config.seed,
            problem.config.data.augment,
            compute.precision,
            probed,
            problem.config.model.is_users or isinstance(problem.loss, ImportedLoss),
            problem.loss,
        )
        # The user's code might change its tensors later.
        in_memory = self.device.type == "cpu" and not problem.runs_user_code
        self._uploads_may_stay = in_memory and adds_up_early(problem)
        self._kept = StateCache(gpu.memory_to_keep(compute.gpus_per_actor))
        self._decoded: tuple[Any, Mapping[str, Tensor]] = (None, {})  # the last message, by its key

    def train(
        self,
        round: int,
        clients: Sequence[int],
        broadcast: NDArray[np.uint8],
        states: Sequence[Arrays | None],
        makers: Makers | None = None,
    ) -> GroupOutput:
        """One round of a client group.

        broadcast: the server's message, uint8 [1, bytes]. states: of each client, named float32 [P]
        arrays, or None before its first round. makers: by which a GPU finds what it has kept.
        Raises ClientError for a client whose training diverged.
        """
        return self._with_room(lambda: self._train(round, clients, broadcast, states, makers))

    def _with_room(self, call: Callable[[], T]) -> T:
        """The result of a call, for which a GPU gives up the states it has kept, if need be."""
        try:
            return call()
        except torch.OutOfMemoryError:
            if not self._kept.clear():
                raise
        torch.cuda.empty_cache()
        return call()

    def _train(
        self,
        round: int,
        clients: Sequence[int],
        broadcast: NDArray[np.uint8],
        states: Sequence[Arrays | None],
        makers: Makers | None,
    ) -> GroupOutput:
        self.problem.seed_generators("group", round, clients[0])
        received = self._decode(round, self.problem.downlink, broadcast)
        setting, method = self.problem.setting_at(round), self.problem.method_at(round)
        solver = GroupSolver(self.trainer, round, torch.tensor(clients), setting, setting.lr)
        stacked = self._stack(clients, states, makers)
        with self.spans.measure("train", round=round, clients=list(clients)):
            uploads, new = method.client(received, stacked, solver)
            if self.spans.on and self.device.type == "cuda":
                torch.cuda.synchronize()  # its work would else count as that of the first copy
        with self.spans.measure("check"):
            check_names(self.method, "client (uploads)", uploads, set(self.problem.uplink))
            check_names(self.method, "client (states)", new, self.state_names)
            check_clients_finite("upload", uploads, round, clients)
            check_clients_finite("state", new, round, clients)
        report = TrainReport(solver.losses.tolist(), solver.zeros)
        encode = partial(self._encode, uploads, round, clients)
        returned = self._returned(clients, new, makers)
        output = GroupOutput(uploads, report, returned, encode, self._uploads_may_stay)
        if not output.may_stay:
            _ = output.messages  # now: what cannot be encoded is a failure of the group
        return output

    @measured("encode")
    def _encode(self, uploads: State, round: int, clients: Sequence[int]) -> NDArray[np.uint8]:
        return message.encode(self.problem.uplink, uploads, round, clients)

    @measured("feedback")
    def apply_feedback(
        self,
        round: int,
        participants: int,
        clients: Sequence[int],
        feedback: NDArray[np.uint8],
        states: Sequence[Arrays | None],
        makers: Makers | None = None,
    ) -> Arrays:
        """New states of a client group that got the server's feedback to `participants` clients.

        They are named arrays [C, P].
        """
        self.problem.seed_generators("feedback", round, clients[0])
        received = self._decode(round, self.problem.feedback_fields(participants), feedback)
        setting = replace(self.problem.setting_at(round), cohort=participants)
        stacked = self._stack(clients, states, makers)
        method = self.problem.method_at(round)
        new = call_hook(method, "apply_feedback", received, stacked, setting)
        check_names(self.method, "apply_feedback", new, self.state_names)
        check_clients_finite("state after the server's feedback", new, round, clients)
        return self._returned(clients, new, makers)

    def evaluated(self, task: Evaluation, sent: NDArray[np.uint8]) -> Score | list[ClientScore]:
        """The result of a task that evaluates the server's model in `sent`."""
        if isinstance(task, Evaluate):
            return self.evaluate(task.round, sent, task.start, task.stop)
        return self.evaluate_clients(task, sent)

    @measured("evaluate")
    def evaluate_clients(self, task: EvaluateClients, sent: NDArray[np.uint8]) -> list[ClientScore]:
        """The server's model in a message on what clients hold out, or train on."""
        x = self._decode(task.round, self.problem.model_fields, sent)["x"]
        given = self.problem, self.trainer, x, task.round - 1, task.clients
        compute = training_losses if task.in_training else evaluate_clients
        return self._with_room(lambda: compute(*given))

    @measured("evaluate")
    def evaluate(self, round: int, sent: NDArray[np.uint8], start: int, stop: int) -> Score:
        """Score of the server's model on samples `start` to `stop`, see `Evaluate`.

        sent: the broadcast, or, where that holds no model, `Server.model_message`.
        """
        self.problem.seed_generators("evaluation", round, start)
        x = self._decode(round, self.problem.model_fields, sent)["x"]
        scores = self.problem.new_scores(self.device)
        for batch in self.trainer.evaluation_batches(start, stop):
            self.trainer.score(x, *batch, scores)
        return scores.result()

    @measured("decode")
    def _decode(self, round: int, fields: Fields, sent: NDArray[np.uint8]) -> Mapping[str, Tensor]:
        """The values of a server message, [P] each; kept for the further tasks of the round."""
        key = round, tuple(fields)
        if self._decoded[0] != key:
            values = message.decode(fields, sent, self.problem.dim, round, [message.SERVER])
            # Copies: a method that changes a tensor in place must not write to shared memory.
            copies = {name: gpu.upload(v[0].clone(), self.device) for name, v in values.items()}
            self._decoded = key, copies
        return self._decoded[1]

    @measured("states")
    def _stack(
        self, clients: Sequence[int], states: Sequence[Arrays | None], makers: Makers | None
    ) -> dict[str, Tensor]:
        """States of a group as [C, P] tensors.

        They are copies, unless one client trains by the package's own code, which changes no state
        in place.
        """
        new = any(state is None for state in states)
        fresh = self.method.client_init(self.initial) if new else {}
        numbers = makers.of_states if makers else [None] * len(clients)
        kept = list(map(self._kept.take, numbers, clients))
        stacked = {}
        for name in self.state_names:
            rows = [
                here[name] if here else self._upload(state[name]) if state else fresh[name]
                for here, state in zip(kept, states)
            ]
            alone = len(rows) == 1 and not self.problem.runs_user_code
            stacked[name] = rows[0][None] if alone else torch.stack(rows)
        return stacked

    def _upload(self, array: NDArray[Any]) -> Tensor:
        return gpu.upload(as_tensor(array), self.device)

    @measured("states")
    def _returned(
        self, clients: Sequence[int], state: Mapping[str, Tensor], makers: Makers | None
    ) -> Arrays:
        """New states of a group, which a GPU also keeps."""
        if makers and self.device.type == "cuda":
            self._kept.keep(makers.task, clients, state)
        return {n: t.numpy() for n, t in zip(state, gpu.download([*state.values()]))}
