"""What figures show of a report."""

from tests.helpers.reports import history, report, trial


def test_figures_show_the_best_of_each_method_and_the_baseline():
    trials = [trial(i, 0.9 - i / 100, local__lr=0.1 * (i + 1)) for i in range(12)]
    trials += [trial(12, 0.2, "fedavg"), trial(13, 0.1, "scaffold")]
    shown = [(row["method"], row["score"]["mean"]) for row in report(trials).shown()]
    assert shown[-2:] == [("fedavg", 0.2), ("scaffold", 0.1)]
    assert len(shown) == 8 and shown[:6] == [("fedsmu", 0.9 - i / 100) for i in range(6)]

    # The setting that comes last is the baseline.
    seeds = [
        trial(3 * i + s, 0.5 + i / 50, seed=s, local__lr=i) for i in range(12) for s in range(3)
    ]
    found = report(seeds, [{}], seeds=3)
    assert found.base() == "fedsmu lr=0" and found.shown()[-1]["name"] == "fedsmu lr=0"
    assert len(found.shown()) == 8 and found.seeds() == [3]


def test_accuracy_is_the_metric_of_the_ranking_or_one_that_was_measured():
    assert report([trial(0)]).accuracy == "test/accuracy"
    assert report([trial(0)]).set_name == "test"
    past = history(**{"test/accuracy": [None] * 4, "val/accuracy": [0.1, 0.2, 0.3, 0.4]})
    found = report([trial(0, past=past)], metric="test/loss")
    assert (found.accuracy, found.set_name) == ("val/accuracy", "validation")
