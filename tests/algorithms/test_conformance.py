"""Every method, and every variant with code of its own, through the same tests on digits.

Below: training beats a stated accuracy, bit-equal repeats, documented size = length of the messages, tasks change nothing they
are given, absent clients untouched, rounds with lost clients, order of arrival, checkpoint round trip, a group = its clients
one by one, NaN refused. The exact oracles of the literature, numbered as in their tests' comments, are elsewhere:

     1  one client, one step is Lion           test_fedsmu: one_client_one_step_is_lion
     2  any local rate                         test_fedsmu: one_client_one_step_is_lion
     3  equal betas: sign of the new momentum  test_fedsmu: equal_betas_send
     4  recurrence of v                        test_fedsmu: recurrence_of_the_transmitted
     5  box, step and contraction bounds       test_fedsmu: box_step_and_contraction; oracles_variants: steps_of_at_most_one
     6  absent clients                         test_fedsmu: absent_clients_keep
     7  integer votes, permuted clients        test_fedsmu: votes_are_integers, permuting_clients; messages: vote_counter
     8  gamma1 = 0, gamma2 = 0, product 1      test_fedsmu: special_steps
     9  decay of both terms                    test_fedsmu: decay_scales
    10  packing, payloads of the models        test_messages: round_trip_and_size, payload_of_the_papers_models
    11  weight decay and clipping alone        test_local: weight_decay_alone, clipping_moves
    12  FedSMUMC                               oracles_variants: momentum_completed, global_momentum
    13  majority votes                         oracles_variants: majority_of_one, majority_of_odd
    14  alpha bits                             oracles_variants: one_bit_of_the_quantiser, error_and_symmetry; catalogue: bits
    15  full precision, beta1 = 0              oracles_variants: full_precision, without_momentum
    16  Fed-LocalLion, Fed-GlobalLion          oracles_variants: local_lion, global_lion
    17  FedAvg                                 oracles_averaging: fedavg_full, fedavg_of_identical
    18  SCAFFOLD and FedAvg; c = mean c_i      oracles_averaging: scaffold_begins, scaffold_of_one, server_variate
    19  variates are gradients                 oracles_averaging: scaffold_variates
    20  SCALLION; unbiased dithering           oracles_averaging: scallion_without, server_variate, dithering
    21  Fed-EF: identity, conservation         oracles_feedback: fed_ef_without, sent_and_remembered
    22  identities of the compressors          oracles_feedback: errors_of_the_compressors, top_k_keeps
    23  e_i of absent clients; zero rules      oracles_feedback: absent_clients_keep, sent_and_remembered
    24  EF21                                   oracles_feedback: ef21_without, ef21_under_partial, ef21_server_holds
    25  FedAMS and FedCAMS                     oracles_adaptive: fedams_without, second_moment, fedcams_without
    26  FedLion                                oracles_adaptive: fedlion_of_one, fedlion_sends_integers
    27  D-Lion and FedSMU                      oracles_adaptive: dlion_under_full, dlion_relayed, dlion_models_part
    28  one worker; signSGD-MV, Signum         oracles_adaptive: dlion_of_one, signsgd_of_one, signum_without, a_minority
    29  magnitude uniformity                   oracles_traffic: uniformity_of_equal, uniformity_keeps; messages: uniformity_reference, other_accumulators
    30  bits of the formulas                   test_catalogue: bits_of_the_papers; oracles_traffic: a_client_of_fedsmu
    31  Dirichlet splits                       test_data: split_is_disjoint, split_depends, concentration; oracles_traffic: a_split_without_remainder
    32  IID CIFAR-100                          test_data: iid_of_many
    33  Shakespeare                            test_leaf: shakespeare
    34  parameter counts                       test_models: parameter_counts, the_papers_dimensions
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsmu_ray.algorithms.base import Round
from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.config.validation import load_config
from fedsmu_ray.datasets.registry import load_dataset
from fedsmu_ray.errors import ClientError
from fedsmu_ray.executors.inline import InlineExecutor
from fedsmu_ray.experiment import run as experiment
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.rounds import Progress, rounds
from fedsmu_ray.federation.server import Server
from fedsmu_ray.wire import message
from fedsmu_ray.wire.compressors import PerClient

# (method, options, local learning rate, test accuracy to reach after 15 rounds of 5 clients with 3 local epochs)
CASES = [
    ("fedsmu", {"gamma1": 0.03}, 0.1, 0.80),
    ("fedsmu", {"gamma1": 0.03, "zero_rule": "zero"}, 0.1, 0.80),
    ("fedsmu", {"gamma1": 0.03, "vote": "majority"}, 0.1, 0.80),
    ("fedsmu", {"gamma1": 0.03, "beta1": 0.0, "gamma2": 0.0}, 0.1, 0.80),
    ("fedsmu", {"gamma1": 0.06, "bits": 3}, 0.1, 0.80),
    ("fedsmu", {"gamma1": 0.06, "bits": 3, "rounding": "stochastic"}, 0.1, 0.80),
    ("fedsmu", {"gamma1": 0.1, "bits": 1, "rounding": "stochastic"}, 0.1, 0.50),
    ("fedsmu", {"gamma1": 1.0, "bits": 4, "zero_rule": "zero", "scaled": True}, 0.1, 0.70),
    ("fedsmu", {"gamma1": 1.0, "bits": 32, "beta1": 0.0, "gamma2": 0.0}, 0.1, 0.85),
    ("fedsmu_mc", {"gamma1": 0.03}, 0.1, 0.80),
    ("fed_local_lion", {}, 0.1, 0.85),
    ("fed_global_lion", {"gamma1": 0.02}, 0.1, 0.80),
    ("fedavg", {}, 0.1, 0.85),
    ("scaffold", {}, 0.1, 0.85),
    ("scallion", {}, 0.1, 0.85),
    ("scallion", {"alpha": 0.5, "bits": 2, "group": "model"}, 0.1, 0.75),
    ("fed_ef", {}, 0.1, 0.80),
    ("fed_ef", {"compressor": "sign"}, 0.1, 0.85),
    ("fed_ef", {"compressor": "heavy_sign", "index": "index32"}, 0.1, 0.80),
    ("fedlion", {}, 0.003, 0.85),
    ("ef21", {}, 0.1, 0.80),
    ("ef21", {"server_average": "participants", "compressor": "sign"}, 0.1, 0.80),
    ("fedams", {}, 0.1, 0.80),
    ("fedcams", {}, 0.1, 0.75),
    (
        "fedcams",
        {
            "compressor": "topk",
            "k_ratio": 0.05,
            "stabiliser": "add",
            "bias_correction": True,
            "lr": 0.01,
        },
        0.1,
        0.75,
    ),
    ("dlion", {"lr": 0.03}, 0.1, 0.55),
    ("dlion", {"lr": 0.03, "relay": "all"}, 0.1, 0.80),
    ("dlion", {"lr": 0.03, "vote": "majority", "zero_rule": "zero"}, 0.1, 0.50),
    ("dlion", {"lr": 0.03, "local": "lion", "evaluated": "shadow"}, 0.003, 0.50),
    ("signsgd_mv", {"lr": 0.02, "tie_rule": "random"}, 0.1, 0.75),
    ("signsgd_mv", {"lr": 0.02, "beta": 0.0}, 0.1, 0.75),
    ("fedprox", {"mu": 0.1}, 0.1, 0.85),
    ("fedavgm", {"beta": 0.5}, 0.1, 0.85),
    ("fedadam", {"lr": 0.03}, 0.1, 0.80),
    ("fedyogi", {"lr": 0.03}, 0.1, 0.80),
    ("feddyn", {}, 0.1, 0.85),
]
IDS = [" ".join([name, *(f"{k}={v}" for k, v in options.items())]) for name, options, *_ in CASES]
DATASET = load_dataset(load_config(None).data)
GROUP = (1, 4, 6, 8, 9)


def problem_of(name, options, lr, **overrides):
    return Problem.of(
        load_config(
            None,
            {
                "algorithm": {"name": name, **options},
                "local.lr": lr,
                "local.epochs": 3,
                "local.batch_size": 32,
                "model.hidden": [24],
                "data.clients": 10,
                "data.partition.alpha": 1.0,
                "federation": {"rounds": 15, "cohort": 5, "eval_every": 15},
                "compute": {"executor": "inline", "clients_per_task": 5},
                "tracking.uri": None,
                **overrides,
            },
        ),
        DATASET,
    )


def run(problem):
    executor = InlineExecutor(problem)
    try:
        return list(rounds(problem, executor)), executor.sha256()
    finally:
        executor.close()


class Shuffled(InlineExecutor):
    """Runs its tasks, and hands their messages to the server, in any order, as actors that race do."""

    def run(self, sent, tasks):
        order = np.random.default_rng(self.server.round).permutation(len(tasks))
        yield from super().run(sent, [tasks[i] for i in order])


class Player:
    """Rounds with cohorts of the test's choice; keeps every client's state as the arrays a client task returned."""

    def __init__(self, problem):
        self.problem, self.worker, self.server, self.states = (
            problem,
            ClientWorker(problem),
            Server(problem),
            {},
        )
        self.method = problem.method

    def keep(self, clients, shards):
        rows = [
            {k: a[i] for k, a in shard.items()}
            for shard in shards
            for i in range(len(next(iter(shard.values()))))
        ]
        self.states.update(zip(clients, rows))

    def train(self, round, clients):
        return self.worker.train(
            round, clients, self.server.open_round(round, False), [self.states.get(c) for c in clients]
        )

    def play(self, round, clients):
        messages, _, shards = self.train(round, clients)
        self.keep(clients, shards)
        self.server.receive(0, clients, messages)
        self.server.step()
        if self.problem.has_feedback:
            heard = clients if self.method.relay == "participants" else range(10)
            self.keep(
                heard,
                self.worker.apply_feedback(
                    round,
                    len(clients),
                    heard,
                    self.server.feedback(),
                    [self.states.get(c) for c in heard],
                ),
            )
        return messages


@pytest.fixture(params=CASES, ids=IDS, scope="module")
def case(request):
    return request.param


@pytest.fixture(scope="module")
def problem(case):
    return problem_of(*case[:3])


@pytest.fixture(scope="module")
def player(problem):
    """A federation after two rounds, in which of GROUP 1, 4 and 9 took part."""
    player = Player(problem)
    player.play(1, (0, 1, 3, 4, 7))
    player.play(2, (1, 2, 4, 5, 9))
    return player


def test_every_method_and_every_oracle_is_here():
    assert {name for name, *_ in CASES} == set(METHODS)
    rows = re.findall(r"^ +(\d+)  .{39}(.+)$", __doc__, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 35))
    for named in (part for _, where in rows for part in where.split("; ")):
        file, tests = named.split(": ")
        source = (Path(__file__).parent / f"test_{file.removeprefix('test_')}.py").read_text(
            encoding="utf-8"
        )
        assert all(f"\ndef test_{test}" in source for test in tests.split(", ")), named


def test_trains_and_repeats_bit_for_bit(case, problem):
    history, digest = run(problem)
    assert history[-1].test_accuracy >= case[3]
    again, other = run(problem)
    assert digest == other and history[-1].train_loss == again[-1].train_loss
    assert history[-1].uplink_bytes == 15 * 5 * message.length(problem.uplink, problem.dim)


def test_documented_size_is_the_length_of_the_messages(problem, player):
    messages, _, _ = player.train(3, GROUP)
    payload = sum(codec.size(problem.dim) for codec in problem.uplink.values())
    assert messages.shape == (len(GROUP), message.overhead(problem.uplink) + payload)
    assert message.overhead(problem.uplink) <= 64
    for values in message.decode(problem.uplink, messages, problem.dim, 3, GROUP).values():
        assert values.shape == (len(GROUP), problem.dim)


def test_tasks_change_nothing_they_are_given(player):
    states = [player.states.get(c) for c in GROUP]
    copies = [{k: v.copy() for k, v in s.items()} if s else None for s in states]
    broadcast = player.server.open_round(3, False)
    before, server = broadcast.copy(), {k: v.clone() for k, v in player.server.state.items()}
    one = player.worker.train(3, GROUP, broadcast, states)
    assert np.array_equal(broadcast, before)
    for state, copy in zip(states, copies):
        assert (state is None and copy is None) or all(
            np.array_equal(state[k], copy[k]) for k in copy
        )
    two = ClientWorker(player.problem).train(
        3, GROUP, before, copies
    )  # states that went through memory elsewhere
    assert np.array_equal(one[0], two[0])
    assert all(np.array_equal(a[k], b[k]) for a, b in zip(one[2], two[2]) for k in a)
    player.server.receive(0, GROUP, one[0])
    held = player.server.state
    player.server.step()
    assert all(torch.equal(held[k], server[k]) for k in server)
    player.server.state = held


def test_absent_clients_are_untouched(problem):
    player = Player(problem)
    player.play(1, (0, 1, 2, 3, 4))
    held = {i: {k: v.copy() for k, v in state.items()} for i, state in player.states.items()}
    player.play(2, (3, 4, 5, 6, 7))
    hearing = problem.has_feedback and problem.method.relay == "all"
    for i in (0, 1, 2):
        for name in held.get(i, {}):
            assert np.array_equal(held[i][name], player.states[i][name]) or (
                hearing and name == "x"
            )


def test_the_server_steps_on_those_who_took_part(problem, player):
    """Two of the five of the cohort were lost: means, shares and replies are of the three that are left."""
    three, server, method = (1, 4, 9), player.server, player.method
    messages, _, shards = player.train(3, three)
    before = server.state
    server.receive(1, three, messages)
    stats = server.step(missing=[0, 4])
    after, reply = server.state, server.feedback() if problem.has_feedback else None
    server.state = before
    assert stats.clients == 3 and stats.uplink_bytes == messages.nbytes
    decoded = message.decode(problem.uplink, messages, problem.dim, 3, three)
    mean = {
        k: v if isinstance(problem.uplink[k], PerClient) else v.double().mean(0).float()
        for k, v in decoded.items()
    }
    expected = method.server(before, mean, Round(3, three, problem.setting, problem.config.seed))
    for name in expected:
        torch.testing.assert_close(after[name], expected[name], rtol=1e-5, atol=1e-6)
    if (
        problem.has_feedback and method.evaluated == "mean"
    ):  # the clients make of the reply what the server thinks they make of it
        states = [
            {k: v[i] for k, v in shard.items()} for shard in shards for i in range(len(shard["x"]))
        ]
        heard = player.worker.apply_feedback(3, 3, three, reply, states)
        models = after["models"][list(three)] if "models" in after else after["x"].expand(3, -1)
        assert np.array_equal(np.concatenate([shard["x"] for shard in heard]), models.numpy())


def test_order_of_arrival_and_checkpoints_cost_no_bits(case, tmp_path):
    problem = problem_of(
        *case[:3],
        **{
            "local.epochs": 1,
            "local.batch_size": 80,
            "model.hidden": [8],
            "federation": {"rounds": 4, "cohort": 5, "eval_every": 4},
            "compute": {"executor": "inline", "clients_per_task": 2},
            "checkpoint.every": 2,
        },
    )
    history, digest = run(problem)
    history, again = [replace(record, seconds=0) for record in history], []
    for stop in (3, None):  # the second goes on from what the first left in files after round 2
        executor = Shuffled(problem)
        for record in experiment.resumable(problem, executor, Progress(), tmp_path):
            again.append(replace(record, seconds=0))
            if record.round == stop:
                break
        executor.close()
    assert again == history[:3] + history[2:]
    assert executor.sha256() == digest


def close(a, b):
    """Equal up to rounding, and to the few signs and kept coordinates that rounding turns over."""
    a, b = (torch.as_tensor(v).double() for v in (a, b))
    return (a - b).norm() <= 0.05 * b.norm() + 1e-12


def test_a_group_is_its_clients_one_by_one(problem, player):
    messages, report, shards = player.train(3, GROUP)
    together = message.decode(problem.uplink, messages, problem.dim, 3, GROUP)
    states = [
        {k: a[i] for k, a in shard.items()}
        for shard in shards
        for i in range(len(next(iter(shard.values()))))
    ]
    for i, client in enumerate(GROUP):
        messages, alone, shards = player.train(3, [client])
        assert alone.losses[0] == pytest.approx(report.losses[i], rel=1e-3)
        for name, value in message.decode(
            problem.uplink, messages, problem.dim, 3, [client]
        ).items():
            assert close(together[name][i], value[0])
        assert all(close(states[i][k], a[0]) for shard in shards for k, a in shard.items())


def test_nan_in_an_update_is_refused(case):
    player = Player(problem_of(case[0], case[1], 1e30, **{"local.clip_norm": None}))
    with pytest.raises(ClientError, match="round 1, client [0-9]: local training diverged"):
        player.play(1, GROUP)
