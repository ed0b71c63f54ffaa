"""The result of a sweep in a notebook: tables of trials, rounds and settings."""

import json
import math

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.files.valid_json import to_json
from fedsmu_ray.sweeps.outcome import results
from fedsmu_ray.sweeps.result import SweepResult


def ended(index, seed, accuracy, method="fedsmu"):
    history = {"round": [2, 4], "test/accuracy": [accuracy / 2, accuracy]}
    history |= {"comm/uplink_bytes": [20, 40], "comm/downlink_bytes": [200, 400]}
    params = {"local.lr": 0.1, "seed": seed}
    params |= {} if method == "fedsmu" else {"algorithm.name": method}
    return {
        "event": "end",
        "index": index,
        "name": f"{index:03d}",
        "run_id": f"run{index}",
        "status": "completed",
        "method": method,
        "params": params,
        "values": {"local.lr": 0.1},
        "score": accuracy,
        "test_accuracy": accuracy,
        "uplink_bytes": 40,
        "rounds": 4,
        "seconds": 1.0,
        "nodes": {"h1": 3},
        "history": history,
    }


def result(*rows):
    config = parse({"tune": {"space": {"local.lr": [0.1]}, "seeds": 2}})
    by_index = {row["index"]: row for row in rows}
    outcome = {**results(config.tune, by_index), "name": "mine"}
    outcome |= {"metric": "test/accuracy", "folder": "sweeps/mine"}
    return SweepResult(outcome, by_index)


def test_tables_of_trials_rounds_and_settings():
    found = result(ended(0, 0, 0.5), ended(1, 1, 0.75), ended(2, 0, 0.25, "fedavg"))
    trials = found.frame()
    assert list(trials.index) == [0, 1, 2] and list(trials["test_accuracy"]) == [0.5, 0.75, 0.25]
    assert list(trials["local.lr"]) == [0.1] * 3 and "history" not in trials
    rounds = found.history()
    assert rounds.loc[(1, 4), "test/accuracy"] == 0.75 and len(rounds) == 6
    assert list(found.settings()["method"]) == ["fedsmu", "fedavg"]
    assert found.best["index"] == 1 and found["best"] == found.best


def test_it_is_a_mapping_that_can_be_written_as_json():
    found = result(ended(0, 0, 0.5), ended(1, 1, math.nan))
    assert json.loads(to_json(found))["name"] == "mine" and isinstance(found, dict)


def test_a_notebook_shows_the_settings_and_the_finding_and_never_a_screenful():
    found = result(ended(0, 0, 0.5), ended(1, 1, 0.75), ended(2, 0, 0.25, "fed<b>avg"))
    assert "2 settings, 3 trials" in repr(found) and len(repr(found)) < 500
    page = found._repr_html_()
    assert "<table" in page and "fed&lt;b&gt;avg" in page and "<b>avg" not in page
    assert "test accuracy (means of 2 seeds)" in page


def test_a_sweep_without_a_result_has_empty_tables():
    found = result()
    assert found.best is None and found.frame().empty and found.history().empty
    assert "0 settings" in found._repr_html_() and "no finding" in repr(found)


def test_a_figure_of_accuracy_over_rounds_and_bytes():
    found = result(ended(0, 0, 0.5), ended(1, 1, 0.75), ended(2, 0, 0.25, "fedavg"))
    axes = found.plot().axes
    assert [ax.get_xscale() for ax in axes] == ["linear", "log", "log"]
    assert all(len(ax.lines) == 2 for ax in axes)
    with pytest.raises(ValueError, match="sweep mine: no trial has an evaluated round"):
        result().plot()
