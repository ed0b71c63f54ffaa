"""The list of metrics: each row names a field of a record and defines what is tracked."""

import dataclasses

import pytest

from fedsmu_ray.federation.records import Record
from fedsmu_ray.tracking import metrics
from fedsmu_ray.tracking.metrics import (
    METRICS,
    SWEEPABLE,
    Metric,
    final_metrics,
    is_finite,
    rank,
    score_of,
    target_metrics,
    tracked,
)

RECORD = Record(
    round=4,
    cohort=(1, 2),
    train_loss=0.5,
    uplink_bytes=1000,
    downlink_bytes=2000,
    seconds=0.25,
    zero_fraction=0.1,
    dropped=3,
    retried=2,
    uniformity=0.75,
    test_accuracy=0.9,
    test_loss=0.3,
)
SUMMARY = {
    "test_accuracy": 0.9,
    "test_loss": 0.3,
    "train_loss": 0.5,
    "uplink_bytes": 1000,
    "downlink_bytes": 2000,
    "best_test_accuracy": 0.95,
    "best_round": 2,
    "seconds": 1.5,
}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_a_field_of_a_record(metric):
    if metric.of_task:
        record = dataclasses.replace(RECORD, scores={metric.name: 0.25})
        assert metric.value(record) == 0.25 and metric.value(RECORD) is None
    else:
        assert metric.field in {field.name for field in dataclasses.fields(Record)}
        assert metric.value(RECORD) == getattr(RECORD, metric.field)
    assert metric.unit and metric.meaning and "/" in metric.name
    assert metric.final or not metric.best


def test_names_and_fields_are_unique():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert len({metric.field for metric in METRICS}) == len(METRICS)


def test_a_record_as_tracked_metrics():
    values = tracked(RECORD)
    assert values == {
        "test/accuracy": 0.9,
        "test/loss": 0.3,
        "train/loss": 0.5,
        "comm/uplink_bytes": 1000.0,
        "comm/downlink_bytes": 2000.0,
        "time/round_s": 0.25,
        "mu/upload": 0.75,
        "clients/dropped": 3.0,
        "clients/retried": 2.0,
    }
    assert all(isinstance(value, float) for value in values.values())


def test_what_was_not_measured_is_not_tracked():
    plain = Record(1, (1,), 0.5, 1000, 2000, 0.25, 0.0)
    assert set(tracked(plain)) == {
        "train/loss",
        "comm/uplink_bytes",
        "comm/downlink_bytes",
        "time/round_s",
    }
    assert tracked(dataclasses.replace(plain, uplink_bytes=0))["comm/uplink_bytes"] == 0.0


def test_final_metrics_of_a_summary():
    assert final_metrics(SUMMARY) == {
        "final/test_accuracy": 0.9,
        "final/test_loss": 0.3,
        "final/train_loss": 0.5,
        "final/uplink_bytes": 1000,
        "final/downlink_bytes": 2000,
        "final/seconds": 1.5,
        "best/test_accuracy": 0.95,
        "best/round": 2,
    }


def test_a_sweep_may_optimize_what_has_a_direction():
    losses = {"test/loss": "min", "val/loss": "min", "train/loss": "min"}
    sent = {"comm/uplink_bytes": "min", "comm/downlink_bytes": "min"}
    general = {"test/accuracy": "max", "val/accuracy": "max", **losses, **sent}
    of_task = {metric.name: metric.direction for metric in metrics.OF_TASK}
    of_clients = {name: metric.direction for name, metric in metrics.OF_CLIENTS.items()}
    assert {**general, **of_task, **of_clients} == SWEEPABLE and of_task["val/mae"] == "min"
    better = {name.removeprefix("clients/"): way for name, way in of_clients.items()}
    assert len(better) == 16 and better["accuracy_worst_decile"] == better["loss_jain"] == "max"
    assert better["personalised_loss_worst_decile"] == better["accuracy_variance"] == "min"


def test_metrics_over_clients_are_of_the_accuracy_or_else_of_the_loss():
    def names(*args):
        found = metrics.client_metric_names(*args)
        return {name.removeprefix("clients/") for name in found}

    ends = ("", "_worst_decile", "_variance", "_jain")
    assert names(True, False) == {"loss", *(f"accuracy{end}" for end in ends)}
    assert names(False, False) == {f"loss{end}" for end in ends}
    assert names(None, False) == names(True, False) | names(False, False)
    both = names(True, False)
    assert names(True, True) == both | {f"personalised_{name}" for name in both}


def test_a_metric_is_added_by_one_row(monkeypatch):
    row = Metric("uploads/zero", "zero_fraction", "0 to 1", "zero signs", final=True)
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, row))
    assert tracked(RECORD)["uploads/zero"] == 0.1
    assert final_metrics({**SUMMARY, "zero_fraction": 0.1})["final/zero_fraction"] == 0.1


@pytest.mark.parametrize("direction, first", [("max", 3.0), ("min", -1.0)])
def test_scores_are_ranked_and_those_that_are_not_finite_come_last(direction, first):
    nan, inf = float("nan"), float("inf")
    ranked = sorted([nan, 2.0, inf, -1.0, None, 3.0, -inf], key=lambda s: rank(s, direction))
    assert ranked[0] == first and set(ranked[:3]) == {2.0, -1.0, 3.0}
    assert not any(map(is_finite, ranked[3:]))


def test_accuracy_is_also_tracked_over_kilobytes():
    sent = {"comm/uplink_bytes": 1_499.0, "comm/downlink_bytes": 4_000.0}
    assert metrics.over_bytes({**sent, "test/accuracy": 0.5}) == {
        "test/accuracy_by_upload_kB": (0.5, 1),
        "test/accuracy_by_total_kB": (0.5, 5),
    }
    assert metrics.over_bytes(sent) == {}  # a round that was not evaluated
    tiny = dict.fromkeys(sent, 1.0)
    steps = {step for _, step in metrics.over_bytes({**tiny, "test/accuracy": 0.5}).values()}
    assert steps == {1}  # a logarithmic axis has no 0


def test_accuracy_over_bytes_is_that_on_the_validation_samples_if_there_are_some():
    record = {"comm/uplink_bytes": 2500.0, "comm/downlink_bytes": 500.0, "test/accuracy": 0.9}
    assert metrics.over_bytes(record) == {
        "test/accuracy_by_upload_kB": (0.9, 2),
        "test/accuracy_by_total_kB": (0.9, 3),
    }
    assert metrics.over_bytes({**record, "val/accuracy": 0.8}) == {
        "val/accuracy_by_upload_kB": (0.8, 2),
        "val/accuracy_by_total_kB": (0.8, 3),
    }


def test_a_metric_about_a_target_is_known_when_the_target_is_reached():
    listed = target_metrics([0.8, 0.955])
    assert [metric.name for metric in listed][3:5] == ["target/0.8/seconds", "target/0.955/rounds"]
    assert listed[1].field == "uplink_bytes_to_0.8" and listed[1].unit == "bytes"
    assert all(metrics.direction_of(metric.name) == metric.direction for metric in listed)
    values = {metric.field: i for i, metric in enumerate(listed)}
    assert [score_of(metric.name, {}, values) for metric in listed] == list(range(8))
    assert score_of("target/0.8/rounds", {}, {"rounds_to_0.8": None}) is None
    assert score_of("test/loss", {"test/loss": 0.5}, {}) == 0.5
