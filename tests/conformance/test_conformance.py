"""All conformance checks (`fedsmu_ray.conformance`) on every method and every code variant.

The exact oracles from the literature are tested beside the code they belong to. The table lists
each oracle, what it states, and `file: tests` (beginnings of the names).

     1  one client, one step is Lion           fedsmu: one_client_one_step_is_lion
     2  any local rate                         fedsmu: one_client_one_step_is_lion
     3  equal betas: sign of the new momentum  fedsmu: equal_betas_send
     4  recurrence of v                        fedsmu: recurrence_of_the_transmitted
     5  box, step and contraction bounds       fedsmu: box_step_and_contraction; fedsmu_variants: steps_of_at_most_one
     6  absent clients                         fedsmu: absent_clients_keep
     7  integer votes, permuted clients        fedsmu: votes_are_integers, permuting_clients; accumulators: vote_counter
     8  gamma1 = 0, gamma2 = 0, product 1      fedsmu: special_steps
     9  decay of both terms                    fedsmu: decay_scales
    10  packing, payloads of the models        message: round_trip_and_size, payload_of_the_papers_models
    11  weight decay and clipping alone        local_training: weight_decay_alone, clipping_moves
    12  FedSMUMC                               fedsmu_variants: momentum_completed, global_momentum
    13  majority votes                         fedsmu: majority_of_one; base: majority_of_odd
    14  alpha bits                             compressors_oracles: one_bit_of_the_quantizer, error_and_symmetry; reference: bits
    15  full precision, beta1 = 0              fedsmu: full_precision, without_momentum
    16  Fed-LocalLion, Fed-GlobalLion          fedsmu_variants: local_lion, global_lion
    17  FedAvg                                 fedavg: fedavg_full, fedavg_of_identical
    18  SCAFFOLD and FedAvg; c = mean c_i      scaffold: scaffold_begins, scaffold_of_one, server_variate
    19  variates are gradients                 scaffold: scaffold_variates
    20  SCALLION; unbiased dithering           scallion: scallion_without, server_variate; compressors_oracles: dithering
    21  Fed-EF: identity, conservation         fed_ef: fed_ef_without; error_feedback: sent_and_remembered
    22  identities of the compressors          compressors_oracles: errors_of_the_compressors, top_k_keeps
    23  e_i of absent clients; zero rules      error_feedback: absent_clients_keep, sent_and_remembered
    24  EF21                                   ef21: ef21_without, ef21_under_partial, ef21_server_holds
    25  FedAMS and FedCAMS                     fedams: fedams_without, second_moment, fedcams_without
    26  FedLion                                fedlion: fedlion_of_one, fedlion_sends_integers
    27  D-Lion and FedSMU                      dlion: dlion_under_full, dlion_relayed, dlion_models_differ
    28  one worker; signSGD-MV, Signum         dlion: dlion_of_one; signsgd_mv: signsgd_of_one, signum_without, a_minority
    29  magnitude uniformity                   accumulators_uniformity: uniformity_of_equal, uniformity_keeps; accumulators: uniformity_reference, other_accumulators
    30  bits of the formulas                   reference: bits_of_the_papers; fedsmu: a_client_of_fedsmu
    31  Dirichlet splits                       partition: split_is_disjoint, split_depends, concentration; partition: a_split_without_remainder
    32  IID CIFAR-100                          partition: iid_of_many
    33  Shakespeare                            leaf: shakespeare
    34  parameter counts                       networks: parameter_counts, the_papers_dimensions
    35  weighted FedAvg                        fedavg: weighted_fedavg
    36  FedNova                                fednova: fednova_with_equal, fednova_follows, unequal_steps
"""

import re
from pathlib import Path

import numpy as np
import pytest

from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.conformance import CHECKS, ConformanceError, Subject, checks
from fedsmu_ray.conformance.subject import ManualRounds, rows_of

# (method, options, local learning rate, test accuracy that 15 rounds of 5 clients with 3 local
# epochs must reach)
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
    ("fednova", {}, 0.1, 0.85),
]
IDS = [" ".join([name, *(f"{k}={v}" for k, v in options.items())]) for name, options, *_ in CASES]


@pytest.fixture(params=CASES, ids=IDS, scope="module")
def subject(request):
    return Subject(*request.param)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, subject):
    check(subject)


def test_every_method_and_every_oracle_is_here():
    assert {name for name, *_ in CASES} == set(METHODS)
    rows = re.findall(r"^ +(\d+)  .{39}(.+)$", __doc__, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 37))
    tests = Path(__file__).parent.parent
    for named in (part for _, where in rows for part in where.split("; ")):
        file, names = named.split(": ")
        sources = [p.read_text(encoding="utf-8") for p in tests.rglob(f"test_{file}.py")]
        for test in names.split(", "):
            assert any(f"\ndef test_{test}" in source for source in sources), named


@pytest.mark.parametrize("case", [c for c in CASES if c[0] == "dlion"], ids=lambda c: str(c[1]))
def test_dlion_clients_have_the_models_that_the_server_computes(case):
    """Clients that apply the feedback get the model that the server computes for them.

    The states of all others stay unchanged.
    """
    subject = Subject(*case)
    play, method = ManualRounds(subject.problem), subject.problem.method
    play.round(1, (0, 1, 2, 3, 4))
    held = {i: {k: v.copy() for k, v in state.items()} for i, state in play.states.items()}
    play.round(2, (3, 4, 5, 6, 7))
    # These clients were absent in round 2: only the feedback may change something, only the model.
    for client in (0, 1, 2):
        assert np.array_equal(held[client]["m"], play.states[client]["m"])
        unchanged = np.array_equal(held[client]["x"], play.states[client]["x"])
        assert unchanged == (method.feedback_to == "participants")
    three = (1, 4, 9)
    output = play.train(3, three)
    play.server.receive(1, three, output.messages)
    assert play.server.step(missing=[0, 4]).participants == 3
    if method.evaluated == "mean":
        play.keep(three, output.states)
        after = play.apply_feedback(3, 3, three)
        state = play.server.state
        models = state["models"][list(three)] if "models" in state else state["x"].expand(3, -1)
        assert np.array_equal(np.stack([row["x"] for row in rows_of(after)]), models.numpy())


def broken(monkeypatch, hook, function):
    """FedAvg with one hook replaced."""
    monkeypatch.setattr(METHODS["fedavg"], hook, function)
    return Subject("fedavg", accuracy=0.0)


def test_a_method_that_breaks_the_contract_is_found(monkeypatch):
    """Each of these mistakes is reported by the check that is meant for it."""
    fedavg = METHODS["fedavg"]
    honest_client, honest_server = fedavg.client, fedavg.server

    def mixes(self, received, state, local):
        upload, new = honest_client(self, received, state, local)
        return {"delta": upload["delta"].mean(0, keepdim=True).expand_as(upload["delta"])}, new

    def modifies(self, received, state, local):
        upload, new = honest_client(self, received, state, local)
        received["x"].add_(1.0)
        return upload, new

    def counts(self, server, mean, round):
        return {"x": honest_server(self, server, mean, round)["x"] * (1 + 0.1 * np.random.rand())}

    for check, hook, function, match in (
        (checks.a_group_equals_its_clients_one_by_one, "client", mixes, "mixes the rows"),
        (checks.inputs_are_not_modified, "client", modifies, "changes the broadcast in place"),
        (checks.trains_and_repeats, "server", counts, "different models"),
    ):
        with monkeypatch.context() as patch, pytest.raises(ConformanceError, match=match):
            check(broken(patch, hook, function))
    with pytest.raises(ConformanceError, match="below 0.99"):
        checks.trains_and_repeats(Subject("fedavg", accuracy=0.99))


def test_the_command(capsys):
    from fedsmu_ray.conformance.__main__ import main

    assert main(["fedavg", "lr=0.5", "--accuracy", "0.5"]) == 0
    out = capsys.readouterr().out
    assert out.count("  ok ") == len(CHECKS) and f"{len(CHECKS)} passed, 0 failed" in out
    assert main(["fedavg", "lr=0.0", "--accuracy", "0.5"]) == 1
    assert "FAILED  Training reaches the accuracy" in capsys.readouterr().out
    assert main(["fedavgg"]) == 2
    assert "did you mean fedavg?" in capsys.readouterr().err


def test_the_command_goes_through_all_checks_when_the_method_raises(capsys, monkeypatch):
    from fedsmu_ray.conformance.__main__ import main

    def returns_another_field(self, received, state, local):
        return {"u": local.train(received["x"])}, {}

    monkeypatch.setattr(METHODS["fedavg"], "client", returns_another_field)
    assert main(["fedavg"]) == 1
    out = capsys.readouterr().out
    assert "FedAvg.client (uploads) returned u; it has to return delta" in out
    # Only in the check of divergence the client raises before it can return the wrong field.
    assert f"1 passed, {len(CHECKS) - 1} failed" in out
