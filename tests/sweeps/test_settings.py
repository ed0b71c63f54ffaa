"""Settings of a sweep: statistics over seeds, targets, paired tests."""

import math

import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.sweeps.settings import (
    findings,
    reached,
    setting_key,
    setting_name,
    statistics,
    summarize_settings,
)

KEYS = ("test_accuracy", "test_loss", "train_loss", "uplink_bytes", "downlink_bytes")
KEYS += ("best_test_accuracy", "rounds", "seconds")


def history(*accuracies, upload=100):
    rounds = range(2, 2 * len(accuracies) + 1, 2)
    return {
        "round": list(rounds),
        "test/accuracy": list(accuracies),
        "comm/uplink_bytes": [upload * r for r in rounds],
        "comm/downlink_bytes": [1000 * r for r in rounds],
    }


def trial(index, score, method="fedsmu", past=None, **params):
    params = {key.replace("__", "."): value for key, value in params.items()}
    return {
        **dict.fromkeys(KEYS, 1.0),
        "index": index,
        "method": method,
        "score": score,
        "params": params,
        "history": past or history(score),
    }


def summarize(trials, diverged=(), baselines=0, targets=(), **tune):
    return summarize_settings(trials, diverged, TuneConfig(**tune), baselines, targets)


def test_statistics_of_a_mean():
    found = statistics([1.0, 2.0, 4.0, 7.0])
    assert found["mean"] == 3.5 and found["n"] == 4
    assert found["std"] == pytest.approx(math.sqrt(7.0))
    low, high = student.interval(0.95, 3, loc=3.5, scale=math.sqrt(7.0) / 2)
    assert found["mean"] - found["ci95"] == pytest.approx(low)
    assert found["mean"] + found["ci95"] == pytest.approx(high)
    assert statistics([5.0]) == {"mean": 5.0, "std": None, "ci95": None, "n": 1}
    for unknown in ([], [1.0, None], [1.0, math.nan], [math.inf]):
        assert statistics(unknown) is None


def test_trials_that_differ_in_the_seed_only_are_a_setting():
    params = {"algorithm.name": "fedavg", "local.lr": 0.1}
    keys = {setting_key({**params, "seed": seed}) for seed in (0, 1)}
    assert keys == {setting_key(params)} != {setting_key({**params, "local.lr": 0.2})}
    assert setting_name({**params, "seed": 1}, "fedavg") == "fedavg lr=0.1"
    assert setting_name({"seed": 1}, "fedsmu") == "fedsmu"


def test_settings_are_ranked_by_the_mean_of_their_seeds():
    trials = [
        trial(i, score, local__lr=lr, seed=seed)
        for i, (lr, seed, score) in enumerate(
            [(0.1, 0, 0.9), (0.1, 1, 0.5), (0.2, 0, 0.8), (0.2, 1, 0.7)]
        )
    ]
    best, other = summarize(trials)
    assert best["params"] == {"local.lr": 0.2} and best["trials"] == [2, 3]
    assert best["score"]["mean"] == 0.75 and other["score"]["mean"] == 0.7
    assert best["difference"] is None
    assert [row["trials"] for row in summarize(trials, metric="test/loss")] == [[0, 1], [2, 3]]


def test_a_setting_of_which_a_seed_has_diverged_has_no_score():
    trials = [trial(0, 0.9, local__lr=1, seed=0), trial(2, 0.1, local__lr=2, seed=0)]
    diverged = [{"index": 1, "params": {"local.lr": 1, "seed": 1}, "error": "DivergenceError"}]
    best, other = summarize(trials, diverged)
    assert best["params"] == {"local.lr": 2} and best["diverged"] == 0
    assert other["score"] is None and other["diverged"] == 1 and other["trials"] == [0]


def test_what_an_accuracy_needs_is_what_its_first_round_has():
    past = history(0.2, 0.8, 0.7, None, 0.9)
    assert reached(past, 0.8) == {"rounds": 4, "uplink_bytes": 400, "total_bytes": 4400}
    assert reached(past, 0.85)["rounds"] == 10
    assert reached(past, 0.95) is None and reached({}, 0.1) is None


def test_a_target_is_reached_by_all_seeds_or_counted():
    trials = [
        trial(0, 0.9, local__lr=1, seed=0, past=history(0.5, 0.9)),
        trial(1, 0.9, local__lr=1, seed=1, past=history(0.9)),
        trial(2, 0.9, local__lr=2, seed=0, past=history(0.9)),
        trial(3, 0.5, local__lr=2, seed=1, past=history(0.5)),
    ]
    first, second = summarize(trials, targets=(0.9, 0.5))
    assert [each["accuracy"] for each in first["targets"]] == [0.9, 0.5]
    assert first["targets"][0]["rounds"]["mean"] == 3
    assert first["targets"][0]["uplink_bytes"]["mean"] == 300
    assert second["targets"][0] == {
        "accuracy": 0.9,
        "reached": 1,
        "of": 2,
        "rounds": None,
        "uplink_bytes": None,
        "total_bytes": None,
    }


def test_the_own_target_is_the_highest_that_every_method_reaches_with_all_seeds():
    trials = [
        trial(0, 0.97, "fedavg", history(0.6, 0.972, upload=3200), seed=0),
        trial(1, 0.96, "fedavg", history(0.962, upload=3200), seed=1),
        trial(2, 0.99, "fedsmu", history(0.993), local__lr=1, seed=0),
        trial(3, 0.98, "fedsmu", history(0.5, 0.981), local__lr=1, seed=1),
    ]
    rows = summarize(trials)
    (found,) = findings(rows)
    assert found["accuracy"] == 0.96 and found["missed_by"] == []
    assert [each["method"] for each in found["methods"]] == ["fedsmu", "fedavg"]
    assert [each["uplink_bytes"]["mean"] for each in found["methods"]] == [300, 9600]
    assert list(findings([])) == []
    assert summarize([trial(0, 0.01)])[0]["targets"] == []


def test_a_method_is_found_by_its_setting_with_the_least_upload():
    trials = [
        trial(0, 0.9, past=history(0.7, 0.7, 0.95), local__lr=1),
        trial(1, 0.8, past=history(0.8), local__lr=2),
        trial(2, 0.3, "fedavg", history(0.3)),
    ]
    (found,) = findings(summarize(trials, targets=(0.8,)))
    assert [each["setting"] for each in found["methods"]] == ["fedsmu lr=2"]
    assert found["missed_by"] == ["fedavg"]


@pytest.mark.parametrize("compare_to, base", [(None, "fedavg lr=1"), ("fedlion", "fedlion")])
def test_settings_are_compared_with_a_baseline_seed_by_seed(compare_to, base):
    scores = {
        ("fedavg", 1): [0.5, 0.6, 0.75],
        ("fedlion", None): [0.3, 0.2, 0.9],
        ("fedsmu", 5): [0.7, 0.65, 0.8],
    }
    trials = [
        trial(3 * i + seed, score, method, seed=seed, **({"local__lr": lr} if lr else {}))
        for i, ((method, lr), values) in enumerate(scores.items())
        for seed, score in enumerate(values)
    ]
    for row in summarize(trials, baselines=6, compare_to=compare_to):
        values = [trials[i]["score"] for i in row["trials"]]
        others = scores[("fedavg", 1) if compare_to is None else ("fedlion", None)]
        if row["name"] == base:
            assert row["difference"] is None
            continue
        assert row["difference"]["to"] == base and row["difference"]["n"] == 3
        test = ttest_rel(values, others)
        assert row["difference"]["p"] == pytest.approx(test.pvalue)
        mean = sum(values) / 3 - sum(others) / 3
        assert row["difference"]["mean"] == pytest.approx(mean)


def test_too_few_common_seeds_or_equal_differences_have_no_p_value():
    def difference(own, other):
        trials = [trial(i, s, "fedavg", seed=i) for i, s in enumerate(other)]
        trials += [trial(9 + i, s, local__lr=1, seed=i) for i, s in enumerate(own)]
        rows = {row["method"]: row for row in summarize(trials, baselines=len(other))}
        return rows["fedsmu"]["difference"]

    assert difference([0.5, 0.6, 0.7], [0.5, 0.6]) is None
    assert difference([1.0, 1.0, 1.0], [0.5, 0.5, 0.5])["p"] is None


def test_trials_that_do_not_reach_a_target_come_last_in_a_sweep_that_minimizes():
    """The setting that more seeds have reached it with before the other; none has diverged."""
    metric = "target/0.8/uplink_bytes"
    scores = {"a": (None, None), "b": (None, 10.0), "c": (900.0, 1100.0), "d": (500.0, 600.0)}
    trials = [
        trial(2 * i + seed, score, past=history(0.5), x=name, seed=seed)
        for i, (name, pair) in enumerate(scores.items())
        for seed, score in enumerate(pair)
    ]
    found = summarize(trials, seeds=2, metric=metric)
    assert [row["params"]["x"] for row in found] == ["d", "c", "b", "a"]
    assert [row["scored"] for row in found] == [2, 2, 1, 0]
    assert found[2]["score"] is None and not any(row["diverged"] for row in found)


def test_the_pareto_front_of_several_metrics():
    """What is equal by both is on it twice; a setting without a score is not on it."""
    metrics = ("test/accuracy", "comm/uplink_bytes")
    points = {"a": (0.9, 50), "b": (0.8, 10), "c": (0.8, 60), "d": (0.9, 50), "e": (None, 1)}
    trials = [
        {**trial(i, score, past=history(0.5), x=name), "uplink_bytes": float(upload)}
        for i, (name, (score, upload)) in enumerate(points.items())
    ]
    found = summarize(trials, metric=metrics)
    assert {row["params"]["x"]: row["pareto"] for row in found} == {
        "a": True,
        "b": True,
        "c": False,
        "d": True,
        "e": False,
    }
    assert [row["params"]["x"] for row in found] == ["a", "d", "b", "c", "e"]  # by the first
    assert found[0]["objectives"]["comm/uplink_bytes"]["mean"] == 50
    assert "pareto" not in summarize(trials)[0]
