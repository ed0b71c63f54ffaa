"""The description of a sweep: a table in Markdown, with links, in few characters."""

from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.sweeps.note import MAX_LENGTH, note
from fedsmu_ray.sweeps.settings import findings, summarize_settings
from fedsmu_ray.tracking.mlflow_names import MAX_TAG

FINALS = {"rounds": 4, "test_loss": 1.0, "train_loss": 1.5, "downlink_bytes": 20, "seconds": 1.5}


def trial(index, score, method="fedsmu", **params):
    history = {"round": [4], "test/accuracy": [score], "comm/uplink_bytes": [1000 * (index + 1)]}
    return {
        **FINALS,
        "index": index,
        "name": f"{index:03d}",
        "run_id": f"{index:032d}",
        "method": method,
        "score": score,
        "test_accuracy": score,
        "best_test_accuracy": score,
        "uplink_bytes": 1000 * (index + 1),
        "params": {"algorithm.name": method, **params},
        "history": {**history, "comm/downlink_bytes": [20]},
    }


def outcome(trials, **more):
    settings = summarize_settings(trials, [], TuneConfig(), 0)
    found = {"settings": settings, "findings": list(findings(settings)), "metric": "test/accuracy"}
    return {"trials": trials, "diverged": [], "failed": [], **found, **more}


def test_the_table_the_finding_and_the_links():
    trials = [
        trial(0, 0.5, seed=1),
        trial(1, 0.6, seed=2),
        trial(2, 0.9, "a|b", seed=1),
        trial(3, 0.9, "a|b", seed=2),
    ]
    failed = [{"name": "004 lr=9", "run_id": "f" * 32, "error": "ClientError:\nround 3"}]
    lines = note(outcome(trials, failed=failed), "FINISHED", 0).splitlines()
    assert lines == [
        "2 settings, 4 trials with a result; by test/accuracy.",
        "",
        "**50 % test accuracy (means of 2 seeds)**",
        "",
        "- fedsmu: 1.5 kB uploaded in 4 rounds",
        "- a|b: 3.5 kB uploaded in 4 rounds (2.33 times as much)",
        "",
        "| method | accuracy | upload to 50 % | upload | runs (by seed) |",
        "| --- | --- | --- | --- | --- |",
        f"| a\\|b | 90.00 ± 0 % | 3.5 kB | 3.5 kB | [1](run:{2:032d}) [2](run:{3:032d}) |",
        f"| fedsmu | 55.00 ± 64 % | 1.5 kB | 1.5 kB | [1](run:{0:032d}) [2](run:{1:032d}) |",
        "",
        f"- failed: [004 lr=9](run:{'f' * 32}): ClientError: round 3",
    ]


def test_a_sweep_that_was_interrupted_before_its_first_result():
    assert note(outcome([]), "KILLED", 0) == (
        "0 settings, 0 trials with a result; by test/accuracy. The sweep was interrupted."
    )
    assert note(outcome([]), "FAILED", 0).endswith(" The sweep was ended by an error.")


def test_what_is_too_long_for_a_tag_is_left_out_and_counted():
    trials = [trial(i, 0.5 + i / 1000, **{"local.lr": i, "seed": 7}) for i in range(300)]
    failed = [{"name": f"{i}", "run_id": "f" * 32, "error": "x" * 300} for i in range(300)]
    text = note(outcome(trials, failed=failed), "FINISHED", 7)
    shown = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(shown) > 20 and f"and {300 - len(shown)} more settings" in text
    assert len(text) < MAX_LENGTH + 100
    linked = text.replace("(run:", "(#/experiments/123456789/runs/")
    assert len(linked) < MAX_TAG
    without_runs = note(outcome([{**trials[0], "run_id": ""}]), "FINISHED", 7)
    assert "run:" not in without_runs and "| 7 |" in without_runs
