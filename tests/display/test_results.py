"""The results that commands print."""

from io import StringIO

import pytest
from rich.console import Console

from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.display.results import print_run, print_sweep, print_unfinished
from fedsmu_ray.display.settings_table import print_settings
from fedsmu_ray.sweeps.settings import findings, summarize_settings

SUMMARY = {
    "rounds": 6,
    "test_accuracy": 0.9,
    "test_loss": 0.3,
    "train_loss": 0.2,
    "best_test_accuracy": 0.95,
    "best_round": 4,
    "uplink_bytes": 1500,
    "downlink_bytes": 2_000_000,
    "dropped": 0,
    "model_sha256": "ab" * 32,
    "seconds": 1.25,
    "nodes": {"h1": 50},
    "tracking_uri": None,
    "not_in_mlflow": None,
}


def trial(index, score, **params):
    method = params.get("algorithm.name", "fedsmu")
    return {**SUMMARY, "index": index, "method": method, "score": score, "params": params}


TRIALS = [
    trial(0, 0.3, **{"local.lr": 0.1}),
    trial(1, 0.9, **{"local.lr": 0.2, "algorithm.name": "fedavg"}),
    trial(2, 0.6, **{"local.lr": None}),
]


def outcome(trials=TRIALS, mode="max", metric=None, **changes):
    metric = metric or {"max": "test/accuracy", "min": "test/loss"}[mode]
    settings = summarize_settings(trials, [], TuneConfig(metric=metric), 0)
    return {
        "trials": trials,
        "settings": settings,
        "findings": list(findings(settings)),
        "diverged": [{"name": "004 lr=99", "error": "LocalDivergenceError: [blue]"}],
        "failed": [{"name": "003 lr=9", "error": "DivergenceError: [red]"}],
        "mode": mode,
        "metric": metric,
        "tracking_uri": None,
        "not_in_mlflow": None,
        "experiment": "fedsmu",
        "name": "small",
        "seconds": 10.4,
        "folder": "my runs/small-1",
        **changes,
    }


def test_a_run_is_two_lines_and_where_it_is_tracked(capsys):
    print_run(SUMMARY)
    assert capsys.readouterr().out.splitlines() == [
        "test accuracy 90.00 % after 6 rounds (best 95.00 % in round 4); uploaded 1.5 kB, "
        "downloaded 2 MB, 1.2 s",
        f"model {'ab' * 32}",
        "tracking is off (tracking.uri=null)",
    ]


def test_missing_uploads_are_shown(capsys):
    print_run({**SUMMARY, "dropped": 2})
    assert "1.2 s, 2 uploads missing\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "uri, viewer",
    [
        ("sqlite:////a/mlflow.db", "python -m fedsmu_ray.ui sqlite:////a/mlflow.db"),
        ("http://server:5000", "a browser at http://server:5000"),
    ],
)
def test_where_the_runs_are(capsys, uri, viewer):
    print_run({**SUMMARY, "tracking_uri": uri})
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"runs are in {uri}; compare them with", f"  {viewer}"]


def test_a_sweep_on_a_server_has_the_link_to_its_charts(capsys):
    print_sweep(outcome(tracking_uri="http://server:5000", view="#/experiments/1/runs?x=y"))
    assert "\n  http://server:5000/#/experiments/1/runs?x=y\n" in capsys.readouterr().out


@pytest.mark.parametrize("missing, where", [("/r/x.jsonl", "is in /r/x.jsonl"), ("", "is lost")])
def test_runs_that_mlflow_does_not_have_are_not_said_to_be_there(capsys, missing, where):
    print_run({**SUMMARY, "tracking_uri": "http://server", "not_in_mlflow": missing})
    said = f"not everything is in MLflow at http://server: the rest {where}\n"
    out = capsys.readouterr().out
    assert out.endswith(said) and "runs are in" not in out


def rows(text):
    """The cells of the table of settings, by row."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if " accuracy " in line)
    return [line.split() for line in lines[start : start + 4]]


@pytest.mark.parametrize(
    "mode, order", [("max", ["0.2", "-", "0.1"]), ("min", ["0.1", "-", "0.2"])]
)
def test_settings_are_printed_best_first(capsys, mode, order):
    print_sweep(outcome(mode=mode))
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("the best 3 of 3 settings, by test/")
    heading, *settings = rows(out)
    assert heading[:2] == ["method", "lr"]
    assert [row[1] for row in settings] == order
    assert settings[order.index("0.2")][0] == "fedavg"
    assert "failed: 003 lr=9: DivergenceError: [red]\n" in out
    assert "diverged: 004 lr=99: LocalDivergenceError: [blue]\n" in out


def seeds_of(setting, *accuracies):
    rows = [trial(10 * setting + i, a, **{"local.lr": setting}) for i, a in enumerate(accuracies)]
    return [
        {**row, "test_accuracy": row["score"], "params": {**row["params"], "seed": i}}
        for i, row in enumerate(rows)
    ]


def test_settings_with_seeds_have_intervals_and_columns_that_vary(capsys):
    trials = [*seeds_of(1, 0.5, 0.6, 0.7), *seeds_of(2, 0.1, 0.9, 0.2)]
    print_sweep(outcome(trials=trials))
    out = capsys.readouterr().out
    assert out.startswith(
        "the best 2 of 2 settings, by test/accuracy (mean ± 95 % interval of 3 seeds)\n"
    )
    assert [line.split() for line in out.splitlines()[1:4]] == [
        ["lr", "accuracy", "upload"],
        ["1", "60.00", "±", "25", "%", "1.5", "kB"],
        ["2", "40.00", "±", "108", "%", "1.5", "kB"],
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_number_is_cut_however_narrow_the_terminal(width):
    trials = [*seeds_of(1, 0.5, 0.6, 0.7), *seeds_of(2, 0.1, 0.9, 0.2)]
    settings = outcome(trials=trials)["settings"]
    written = StringIO()
    console = Console(file=written, width=width, markup=False, highlight=False)
    print_settings(console, settings, "test/loss")
    text = written.getvalue()
    assert "…" not in text
    for number in ("60.00 ± 25 %", "40.00 ± 108 %", "0.6 ± 0.25", "1.5 kB"):
        assert number in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines()[1:])


def test_only_the_best_settings_are_printed(capsys):
    print_sweep(outcome(tracking_uri="http://server"), limit=2)
    out = capsys.readouterr().out
    assert out.startswith("the best 2 of 3 settings") and "0.1 " not in out and "0.2 " in out
    assert "sweep of 10 s in experiment 'fedsmu', run 'small' (unfold it to see its trials)" in out


def test_a_sweep_without_a_finished_trial_has_no_table(capsys):
    print_sweep(outcome(trials=[]))
    assert capsys.readouterr().out.startswith("diverged: 004")


def test_settings_are_compared_by_their_metric_and_diverged_ones_come_last(capsys):
    scores = (None, 0.5, 0.123456, float("nan"))
    trials = [trial(i, score, **{"local.lr": i}) for i, score in enumerate(scores)]
    trials = [{**t, "name": f"00{t['index']} lr=9"} for t in trials]
    print_sweep(outcome(trials=trials, metric="test/loss", mode="min"))
    out = capsys.readouterr().out
    heading, *table = rows(out)
    assert heading[:2] == ["lr", "test/loss"]
    assert [row[:2] for row in table[:2]] == [["2", "0.1235"], ["1", "0.5"]]
    assert table[2][1] == "diverged"
    assert "diverged, with test/loss NaN or infinite: 000 lr=9; 003 lr=9\n" in out


def test_a_run_that_diverged_says_so(capsys):
    print_run({**SUMMARY, "test_loss": float("nan")})
    assert "the model has diverged: test loss nan; lower local.lr" in capsys.readouterr().out


MARKUP = ("demo [/nlp]", "[/x]", "x[draft]y", "[bold]b[/bold]", ":smile: \\[a]", "[link=x]", "100%")


@pytest.mark.parametrize("text", MARKUP)
def test_names_params_and_errors_are_printed_as_they_are(capsys, text):
    uri = f"sqlite:////{text}/mlflow.db"
    print_run({**SUMMARY, "tracking_uri": uri})
    assert f"runs are in {uri}; compare" in capsys.readouterr().out
    row = {**trial(0, 0.5, **{"model.options": text}), "name": text, "method": text}
    other = {**trial(1, None), "name": text}
    failed = [{"name": text, "error": f"{text}: {text}"}]
    given = {"experiment": text, "name": text, "tracking_uri": uri, "folder": text}
    print_sweep(outcome(trials=[row, other], failed=failed, **given))
    out = capsys.readouterr().out
    heading, *table = rows(out)
    assert heading[1] == "options" and out.count(f"{text}  ") >= 2
    assert f"failed: {text}: {text}: {text}\n" in out
    assert f"in experiment '{text}', run '{text}'" in out
    assert f"diverged, with test/accuracy NaN or infinite: {text}\n" in out


def test_commands_to_paste_are_quoted_for_a_shell(capsys):
    print_sweep(outcome(tracking_uri="sqlite:////my data (1)/mlflow.db"))
    out = capsys.readouterr().out
    assert "python -m fedsmu_ray.ui 'sqlite:////my data (1)/mlflow.db'\n" in out
    assert "once more: python -m fedsmu_ray.tune --resume 'my runs/small-1'\n" in out


def test_the_nodes_that_have_trained_are_shown_where_there_are_several(capsys):
    print_run({**SUMMARY, "nodes": {"h1": 30, "h2": 20}})
    assert "clients trained by node: h1 30, h2 20\n" in capsys.readouterr().out
    print_run(SUMMARY)
    assert "by node" not in capsys.readouterr().out


def test_the_nodes_of_trials_are_shown_where_there_are_several(capsys):
    nodes = ({"h2": 5}, {"h1": 5}, {"h1": 2, "h2": 3})
    trials = [{**trial(i, 0.5, seed=i), "nodes": each} for i, each in enumerate(nodes)]
    old = {k: v for k, v in trial(3, 0.4).items() if k != "nodes"}  # of an earlier release
    print_sweep(outcome(trials=[*reversed(trials), old]))
    assert "trials by node: h1: 1, 2; h2: 0, 2\n" in capsys.readouterr().out
    print_sweep(outcome(trials=trials[:1]))
    assert "by node" not in capsys.readouterr().out


def test_with_validation_samples_both_accuracies_are_shown_and_named(capsys):
    validated = {"val_accuracy": 0.875, "val_loss": 0.4, "best_val_accuracy": 0.88}
    print_run({**SUMMARY, **validated, "best_test_accuracy": None})
    assert (
        "test accuracy 90.00 % after 6 rounds (on the validation samples 87.50 %, best 88.00 % in "
        "round 4)"
    ) in capsys.readouterr().out
    hidden = {**validated, "test_accuracy": None}
    trials = [{**TRIALS[0], **validated}, {**TRIALS[2], **hidden}]
    print_sweep(outcome(trials, metric="val/accuracy"))
    out = capsys.readouterr().out
    assert "by val/accuracy" in out and "val accuracy  test accuracy" in out
    assert "87.50 %        90.00 %" in out and "87.50 %              -" in out
    assert "test accuracy: of the best setting of each method" in out


def test_what_clients_have_is_shown_where_it_was_measured(capsys):
    measured = {"clients_loss": 0.4, "clients_accuracy": 0.8, "clients_accuracy_worst_decile": 0.5}
    print_run({**SUMMARY, **measured})
    line = capsys.readouterr().out.splitlines()[0]
    assert line.endswith("; on what clients hold out: mean accuracy 80.00 %, worst tenth 50.00 %")
    losses = {"clients_personalised_loss": 0.25, "clients_personalised_loss_worst_decile": 1.5}
    print_run({**SUMMARY, **losses})
    line = capsys.readouterr().out.splitlines()[0]
    assert line.endswith("; fine-tuned by each: mean loss 0.25, worst tenth 1.5")


def test_an_unfinished_sweep_shows_what_has_ended_and_where(capsys):
    print_unfinished(outcome())
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "the best 3 of 3 settings, by test/accuracy"
    assert out.endswith(
        "3 trials have ended; results are in my runs/small-1 (results.csv, history.csv)\n"
    )
    print_unfinished(outcome([]))
    assert capsys.readouterr().out.startswith(
        "0 trials have ended; results are in my runs/small-1 "
    )
