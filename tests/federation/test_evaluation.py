"""Evaluation on clients: what is measured is what they hold out, and training does not change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.federation import evaluation
from fedsmu_ray.federation.evaluation import evaluated_clients, statistics
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress
from fedsmu_ray.federation.rounds import rounds
from fedsmu_ray.numerics.parameters import load_into
from tests.helpers.experiments import inline, inline_executor, problem_of

ALL = {"clients": "all", "share": 0.3}


def finished(problem):
    """Records, progress and the final model [P] of a run."""
    executor, progress = inline_executor(problem), Progress()
    try:
        return list(rounds(problem, executor, progress)), progress, executor.params()
    finally:
        executor.close()


def on_client(problem, x, client):
    """Accuracy and loss of x [P] on what a client holds out, without the package's evaluation."""
    index = problem.partition.held_out_of(client)
    module = load_into(problem.module(), torch.from_numpy(x.copy()))
    inputs, targets = DeviceData(problem.dataset, torch.device("cpu")).batch(index)
    with torch.no_grad():
        outputs = module(inputs)
    right = (outputs.argmax(-1) == targets).float().mean()
    return float(right), float(cross_entropy(outputs, targets)), len(index)


@pytest.mark.parametrize("algorithm", [{"name": "fedsmu"}, {"name": "dlion"}], ids=str)
def test_each_client_is_evaluated_on_what_it_holds_out(algorithm):
    """DLion's broadcast has no model, so there it is sent for the evaluation."""
    problem = problem_of(algorithm, evaluation=ALL)
    history, progress, x = finished(problem)
    wanted = [on_client(problem, x, client) for client in range(30)]
    assert [score.client for score in progress.clients] == [*range(30)]
    found = [(s.values["accuracy"], s.values["loss"], s.samples) for s in progress.clients]
    assert np.allclose(found, wanted, rtol=1e-5, atol=1e-6)

    accuracies = sorted(accuracy for accuracy, *_ in wanted)
    last = {k.removeprefix("clients/"): v for k, v in history[-1].scores.items()}
    mean = sum(accuracies) / 30
    assert last == pytest.approx(
        {
            "accuracy": mean,
            "accuracy_worst_decile": sum(accuracies[:3]) / 3,
            "accuracy_variance": sum((a - mean) ** 2 for a in accuracies) / 30,
            "accuracy_jain": sum(accuracies) ** 2 / (30 * sum(a * a for a in accuracies)),
            "loss": sum(loss for _, loss, _ in wanted) / 30,
        },
        rel=1e-5,
    )
    assert [bool(record.scores) for record in history] == [False, True, False, True]


def test_without_clients_nothing_is_held_out_and_with_them_training_is_that_on_the_rest():
    plain = problem_of({"name": "fedavg"})
    assert not len(plain.partition.held_out) and plain.partition.sizes.tolist() == 30 * [47]
    problem = problem_of({"name": "fedavg"}, evaluation=ALL)
    parts = problem.partition
    held = [*parts.held_out.tolist(), *parts.indices.tolist()]
    assert sorted(held) == sorted(plain.partition.indices.tolist())
    # The same training samples as all that there are give the same model.
    alone = replace(plain, partition=replace(parts, held_out_sizes=plain.partition.held_out_sizes))
    assert inline(alone)[1] == inline(problem)[1] != inline(plain)[1]


@pytest.mark.parametrize("change", [{"clients": 4}, {"personalise": {"epochs": 1}}], ids=str)
def test_how_clients_are_evaluated_does_not_change_training(change):
    algorithm = {"name": "scaffold"}
    one, two = (problem_of(algorithm, evaluation=each) for each in (ALL, {**ALL, **change}))
    assert inline(one)[1] == inline(two)[1]


def test_with_validation_samples_clients_hold_out_of_the_rest():
    data = {"clients": 30, "validation": 0.25}
    problem = problem_of({"name": "fedavg"}, data=data, evaluation=ALL)
    parts = problem.partition
    apart = [parts.validation, parts.held_out, parts.indices]
    assert len({*torch.cat(apart).tolist()}) == sum(map(len, apart)) <= 1437
    history, progress, x = finished(problem)
    last = history[-1]
    assert (
        last.val_loss
        and last.test_loss
        and last.scores["clients/loss"]
        == pytest.approx(
            np.mean([on_client(problem, x, client)[1] for client in range(30)]), rel=1e-5
        )
    )


def test_drawn_clients_are_others_each_time_and_of_the_seed():
    problem = problem_of({"name": "fedavg"}, evaluation={**ALL, "clients": 6})
    drawn = [evaluated_clients(problem, round) for round in (2, 4)]
    assert drawn == [evaluated_clients(problem, round) for round in (2, 4)]
    assert all(len({*clients}) == 6 for clients in drawn) and sorted(drawn[0]) != sorted(drawn[1])
    other = problem_of({"name": "fedavg"}, seed=1, evaluation={**ALL, "clients": 6})
    assert sorted(evaluated_clients(other, 2)) != sorted(drawn[0])
    _, progress, x = finished(problem)
    assert [score.client for score in progress.clients] == sorted(drawn[1])
    for client, _, values in progress.clients:
        assert values["loss"] == pytest.approx(on_client(problem, x, client)[1], rel=1e-5)


def test_weights_count_training_samples_only():
    federation = {"rounds": 2, "cohort": 7, "weighting": "samples"}
    problem = problem_of({"name": "fedavg"}, federation=federation, evaluation=ALL)
    parts, weights = problem.partition, problem.weights
    assert (weights * parts.sizes[0] == parts.sizes * weights[0]).all()
    assert problem.setting.steps == problem.work.most_steps(int(parts.sizes.max()))


def test_values_have_statistics_of_the_loss_and_groups_of_clients_change_no_bits(monkeypatch):
    def problem():
        return Problem.of(
            problem_of(
                {"name": "fedavg"},
                data={"clients": 10, "dataset": "diabetes", "partition": {"kind": "iid"}},
                task={"loss": "mse"},
                evaluation={**ALL, "personalise": {"epochs": 1}},
                local={"epochs": 1, "batch_size": 20, "lr": 0.01},
            ).config
        )

    first = finished(problem())[0][-1].scores
    assert "clients/loss_jain" in first and "clients/personalised_loss_worst_decile" in first
    assert not [name for name in first if "accuracy" in name]
    monkeypatch.setattr(evaluation, "EVALUATION_SLICE", 1)
    assert finished(problem())[0][-1].scores == first


def test_statistics_of_few_equal_and_no_values():
    equal = statistics(np.full(20, 0.25), "max")
    assert equal == {"": 0.25, "_worst_decile": 0.25, "_variance": 0.0, "_jain": 1.0}
    assert statistics(np.array([0.0, 0.0]), "max")["_jain"] == 1.0
    one = statistics(np.array([1.0, 0.0, 0.0, 0.0]), "max")
    assert (one["_worst_decile"], one["_jain"]) == (0.0, 0.25)
    losses = statistics(np.arange(25.0), "min")
    assert losses["_worst_decile"] == 23.5  # 25 // 10 clients
    assert np.isnan([*statistics(np.array([]), "min").values()]).all()
    diverged = statistics(np.array([1.0, np.nan, np.inf]), "min")
    assert np.isnan(diverged[""]) and np.isnan(diverged["_worst_decile"])
