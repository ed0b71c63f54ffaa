"""The summary of the results of an experiment."""

import json
from dataclasses import replace
from types import SimpleNamespace

from fedsmu_ray.config.validation import parse
from fedsmu_ray.experiment.summary import summarize
from fedsmu_ray.federation.records import Progress, Record
from fedsmu_ray.tracking.metrics import final_metrics

CONFIG = parse({"name": "t", "federation": {"rounds": 40, "cohort": 5}, "data": {"clients": 20}})


def record(number, accuracy, **changes):
    values = {
        "round": number,
        "cohort": (1, 2),
        "train_loss": 0.5 / number,
        "uplink_bytes": 10 * number,
        "downlink_bytes": 20 * number,
        "seconds": 0.1,
        "zero_fraction": 0.0,
        "uniformity": 0.5,
        "test_accuracy": accuracy,
        "test_loss": 1.0 / number,
        **changes,
    }
    return Record(**values)


EVALUATED = [record(2, 0.5), record(4, 0.75), record(6, 0.75), record(8, 0.7, dropped=3)]


def summary(evaluated=EVALUATED, config=CONFIG, **changes):
    progress = Progress(evaluated=evaluated)
    given = {"sha256": "ab", "seconds": 1.23456, "trained_on": {"h2": 3, "h1": 37}, **changes}
    return summarize(SimpleNamespace(config=config, dim=1000), progress, **given)


def test_the_figures_of_a_summary():
    assert summary() == {
        "name": "t",
        "method": "fedsmu",
        "rounds": 8,
        "test_accuracy": 0.7,
        "test_loss": 0.125,
        "train_loss": 0.0625,
        "best_test_accuracy": 0.75,
        "best_round": 4,
        "uplink_bytes": 80,
        "downlink_bytes": 160,
        "dropped": 3,
        "retried": 0,
        "clients": 20,
        "cohort": 5,
        "dim": 1000,
        "model_sha256": "ab",
        "seconds": 1.235,
        "nodes": {"h1": 37, "h2": 3},
    }
    assert (
        isinstance(summary()["uplink_bytes"], int) and summary(sha256=None)["model_sha256"] is None
    )


def test_with_validation_samples_the_best_round_is_theirs():
    config = parse({"name": "t", "data": {"validation": 0.1}})
    validated = [(2, 0.5), (4, 0.875), (6, 0.625)]
    records = [record(n, None, test_loss=None, val_accuracy=x, val_loss=1.0) for n, x in validated]
    records[-1] = replace(records[-1], test_accuracy=0.75, test_loss=0.5)
    found = summary(records, config)
    assert (found["test_accuracy"], found["val_accuracy"], found["test_loss"]) == (0.75, 0.625, 0.5)
    assert (found["best_val_accuracy"], found["best_round"]) == (0.875, 4)
    finals = final_metrics(found)
    assert finals["best/val_accuracy"] == 0.875 and "best/test_accuracy" not in finals
    assert finals["final/test_accuracy"] == 0.75 and finals["final/val_accuracy"] == 0.625


def test_a_summary_is_json_and_has_all_final_metrics():
    assert json.loads(json.dumps(summary())) == summary()
    assert final_metrics(summary())["final/uplink_bytes"] == 80


def test_what_it_took_to_reach_targets():
    """At the first evaluated round that has them; there is none of the others."""
    plain = {"federation": {"rounds": 40, "cohort": 5, "targets": [0.75, 0.9]}}
    records = [replace(r, elapsed=1.5 * r.round) for r in EVALUATED]
    found = summary([record(1, float("nan")), *records], parse(plain))
    reached = {"rounds": 4, "uplink_bytes": 40, "total_bytes": 120, "seconds": 6.0}
    assert {key: found[f"{key}_to_0.75"] for key in reached} == reached
    assert [found[f"{key}_to_0.9"] for key in reached] == [None] * 4
    finals = final_metrics(found)
    assert {f"final/{key}_to_0.75": value for key, value in reached.items()}.items() <= (
        finals.items()
    )
    assert not any("0.9" in name for name in finals)
    assert not any("_to_" in key for key in summary())
