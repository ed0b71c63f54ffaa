"""Runs in a tracker as trials."""

import math

from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.sweeps.settings import summarize_settings
from fedsmu_ray.sweeps.tracked import rows_of
from fedsmu_ray.tracking.base import TrackedRun


def run(name, method="fedsmu", status="finished", tags=(), history=None, **params):
    params = {"algorithm.name": method, "seed": "0"} | {
        key.replace("__", "."): value for key, value in params.items()
    }
    tags = {"fedsmu.method": method, **dict(tags)}
    history = {2: {"test/accuracy": 0.5}} if history is None else history
    sent = {"comm/uplink_bytes": 10.0, "comm/downlink_bytes": 20.0}
    history = {number: {**sent, **own} for number, own in history.items()}
    return TrackedRun(name, name, status, params, tags, {}, history)


def test_parameters_are_values_and_only_those_that_differ_within_a_method():
    runs = [
        run("a", local__lr="0.1", model__hidden="[8, 8]", compute__actors="1", seed="3"),
        run("b", local__lr="1e-05", model__hidden="[8, 8]", compute__actors="2"),
        run("c", "fedavg", local__lr="0.3", data__root="/d"),
    ]
    rows = rows_of(runs, "test/accuracy")
    assert list(rows) == [0, 1, 2]
    assert rows[0]["params"] == {"algorithm.name": "fedsmu", "local.lr": 0.1, "seed": 3}
    assert rows[1]["params"]["local.lr"] == 1e-05
    assert rows[2]["params"] == {"algorithm.name": "fedavg", "seed": 0}
    assert rows[2]["values"] == {"algorithm.name": "fedavg", "local.lr": 0.3}


def test_keys_that_are_always_equal_are_one_and_trials_keep_their_numbers():
    runs = [run(f"{i:03d} x", a__b=str(i), a__c=str(i), a__d=str(i // 2)) for i in (2, 0, 3)]
    rows = rows_of(runs, "test/accuracy")
    assert sorted(rows) == [0, 2, 3]
    assert rows[2]["params"] == {"algorithm.name": "fedsmu", "a.b, a.c": 2, "a.d": 1, "seed": 0}
    # Earlier versions had them in the names, later ones have them in a tag.
    runs = [run(f"fedsmu b={i}", tags={"fedsmu.trial": str(i)}, a__b=str(i)) for i in (2, 0)]
    assert rows_of(runs, "test/accuracy")[2]["name"] == "fedsmu b=2"


def test_what_a_run_came_to():
    nan = {2: {"test/accuracy": 0.1}, 4: {"test/accuracy": math.nan, "test/loss": math.nan}}
    rows = rows_of(
        [
            run("a", history={2: {"test/accuracy": 0.5}, 4: {"test/accuracy": 0.4}}),
            run("b", status="running", local__lr="1"),
            run("c", history=nan, local__lr="2"),
            run("d", tags={"fedsmu.status": "failed", "fedsmu.error": "E: x"}, history={}),
            run("e", tags={"fedsmu.status": "diverged", "fedsmu.error": "E: y"}, history={}),
        ],
        "test/accuracy",
    )
    assert [row["status"] for row in rows.values()] == [
        "completed",
        "running",
        "diverged",
        "failed",
        "diverged",
    ]
    assert (rows[0]["score"], rows[0]["best_test_accuracy"], rows[0]["rounds"]) == (0.4, 0.5, 4)
    assert rows[1]["uplink_bytes"] == 10 and rows[1]["history"]["round"] == [2]
    assert rows[2]["score"] is None and rows[3]["error"] == "E: x"
    ended = [row for row in rows.values() if "error" not in row]
    assert len(summarize_settings(ended, [], TuneConfig(), 0)) == 3
