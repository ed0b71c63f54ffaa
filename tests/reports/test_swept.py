"""Heat maps and slices of the swept keys."""

import itertools

import pytest

from fedsmu_ray.reports.charts import Heat, Lines
from fedsmu_ray.reports.swept import chart, varying
from tests.helpers.reports import report, trial


def grid(**keys):
    """A trial for each combination; the score grows with the index."""
    combinations = enumerate(itertools.product(*keys.values()))
    return [trial(i, i / 100, **dict(zip(keys, values, strict=True))) for i, values in combinations]


def test_learning_rates_come_first_and_keys_swept_together_are_one():
    trials = grid(data__clients=(10, 20), algorithm__beta1=(0.5, 0.9), local__lr=(0.1, 0.2))
    for each in trials:
        each["values"]["algorithm.beta2"] = each["values"]["algorithm.beta1"]
    keys = varying(report(trials).settings)
    assert [key.name for key in keys] == ["lr", "beta1/beta2", "clients"]


def test_a_heat_map_has_the_best_over_the_other_keys():
    keys = {"algorithm__gamma1": (0.01, 0.1), "algorithm__beta1": (0.5, 0.9)}
    found = chart(report(grid(**keys, data__clients=(10, 20))))
    heat, rest = found.panels
    assert isinstance(heat, Heat) and isinstance(rest, Lines) and "highest" in found.caption
    assert [text for _, text in heat.x.ticks] == ["0.01", "0.1"] and heat.y.label == "beta1"
    assert heat.values == [[1.0, 5.0], [3.0, pytest.approx(7.0)]]  # percent, [y, x]
    assert heat.texts[0] == ["1.0", "5.0"]


def test_a_cell_that_has_diverged_or_was_not_tried_is_empty():
    trials = grid(local__lr=(0.1, 10.0), algorithm__beta1=(0.5, 0.9))
    trials[3] |= {"score": None, "test_accuracy": None}
    (heat,) = chart(report(trials[1:])).panels
    assert heat.values == [[None, 2.0], [1.0, None]]
    assert heat.texts == [["", "2.0"], ["1.0", "diverged"]]


def test_one_key_is_a_slice_with_a_logarithmic_axis_over_decades():
    (panel,) = chart(report(grid(local__lr=(0.01, 1.0, 0.1)))).panels
    points, line = panel.lines
    assert panel.x.is_log and (points.x, points.y) == ([0.01, 0.1, 1.0], [0.0, 2.0, 1.0])
    assert points.points and not line.points and panel.title == "fedsmu"
    (panel,) = chart(report(grid(model__hidden=("mlp", "lenet")))).panels
    assert panel.x.ticks == [(0.0, "lenet"), (1.0, "mlp")] and len(panel.lines) == 1


def test_random_values_are_slices_and_without_swept_keys_there_is_no_figure():
    pairs = [(0.1 + i / 7, 0.5 + i / 90) for i in range(9)]
    trials = [trial(i, 0.5, local__lr=lr, algorithm__beta1=b) for i, (lr, b) in enumerate(pairs)]
    assert [type(panel) for panel in chart(report(trials)).panels] == [Lines, Lines]
    assert chart(report([trial(0), trial(1, method="fedavg")])) is None
    diverged = [{**each, "score": None} for each in grid(local__lr=(0.1, 0.2))]
    assert chart(report(diverged)).panels[0].lines[0].x == []
