"""The searcher: which trials it suggests to Tune, and in which order."""

import math

import pytest
from ray.tune.search import Searcher

from fedsmu_ray.config.validation import parse
from fedsmu_ray.sweeps.folder import SweepFolder
from fedsmu_ray.sweeps.searcher import trial_searcher
from fedsmu_ray.sweeps.space import TrialSpec
from fedsmu_ray.sweeps.trial import REPORT, TrialFailure


def sweep(tmp_path, **tune):
    config = parse({"tune": {"baselines": [{"algorithm.name": "fedavg"}], **tune}})
    return config, SweepFolder(tmp_path)


def suggest(searcher, trial_id="t"):
    return TrialSpec.from_tune(searcher.suggest(trial_id))


def end(folder, index, params, score):
    folder.trial_started(index, params, "run")
    folder.trial_ended(index, "name", {"status": "completed", "score": score})


def test_a_grid_is_suggested_in_order_without_the_trials_that_have_ended(tmp_path):
    config, folder = sweep(tmp_path, space={"local.lr": {"grid": [0.1, 0.2, 0.3]}})
    end(folder, 1, {"local.lr": 0.1}, 0.5)
    folder.trial_started(2, {"local.lr": 0.2}, "run")
    searcher = trial_searcher(config, folder)
    assert searcher.remaining == 3
    found = [suggest(searcher) for _ in range(3)]
    assert [spec.index for spec in found] == [0, 2, 3]
    assert [spec.config.method_name for spec in found] == ["fedavg", "fedsmu", "fedsmu"]
    assert [spec.config.local.lr for spec in found[1:]] == [0.2, 0.3]
    assert searcher.suggest("t") == Searcher.FINISHED and searcher.remaining == 0


def test_optuna_suggests_after_the_baselines_and_the_interrupted_trials(tmp_path):
    space = {
        "local.lr": {"loguniform": [0.01, 1]},
        "local.epochs": {"choice": [1, 2]},
        "seed": 3,
    }
    config, folder = sweep(tmp_path, search="optuna", samples=4, space=space)
    params = {"local.lr": 0.1, "local.epochs": 1, "seed": 3}
    end(folder, 0, {"algorithm.name": "fedavg"}, 0.9)
    end(folder, 1, params, 0.5)
    folder.trial_started(3, params, "run")
    searcher = trial_searcher(config, folder)
    assert searcher.remaining == 3
    found = [suggest(searcher, f"t{i}") for i in range(3)]
    assert [spec.index for spec in found] == [3, 4, 5] and found[0].params == params
    for spec in found[1:]:
        assert 0.01 <= spec.config.local.lr <= 1 and spec.config.local.epochs in (1, 2)
        assert spec.config.seed == 3
    assert searcher.suggest("t") == Searcher.FINISHED
    searcher.on_trial_complete("t0", {"test/accuracy": 0.1})
    searcher.on_trial_complete("t1", {"test/accuracy": 0.7})
    searcher.on_trial_complete("t2", error=True)
    assert [t.value for t in searcher.study.study.trials] == [0.5, 0.7, None, 0.1]


def test_optuna_judges_a_setting_by_the_mean_of_its_seeds(tmp_path):
    space = {"local.lr": {"loguniform": [0.01, 1]}}
    config, folder = sweep(tmp_path, search="optuna", samples=2, space=space, seeds=[5, 7])
    searcher = trial_searcher(config, folder)
    assert searcher.remaining == 6
    found = [suggest(searcher, f"t{i}") for i in range(6)]
    assert [spec.index for spec in found] == list(range(6))
    assert [spec.config.seed for spec in found] == [5, 7] * 3
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first.config.local.lr == second.config.local.lr
    for i, score in enumerate([0.1, 0.2, 0.5, 0.7, None, math.nan]):
        result = {} if score is None else {"test/accuracy": score}
        searcher.on_trial_complete(f"t{i}", result)
    assert [t.value for t in searcher.study.study.trials] == [pytest.approx(0.6), None]
    assert searcher.study.study.trials[1].state.name == "PRUNED"


def test_a_resumed_study_runs_the_missing_seeds_of_what_was_begun(tmp_path):
    space = {"local.lr": {"loguniform": [0.01, 1]}}
    config, folder = sweep(tmp_path, search="optuna", samples=3, space=space, seeds=2, baselines=[])
    end(folder, 0, {"local.lr": 0.1, "seed": 0}, 0.4)
    end(folder, 1, {"local.lr": 0.1, "seed": 1}, 0.6)
    end(folder, 3, {"local.lr": 0.2, "seed": 1}, 0.8)
    searcher = trial_searcher(config, folder)
    assert searcher.remaining == 3
    found = [suggest(searcher, f"t{i}") for i in range(3)]
    assert [(spec.index, spec.config.seed) for spec in found] == [(2, 0), (4, 0), (5, 1)]
    assert found[0].params == {"local.lr": 0.2, "seed": 0}
    searcher.on_trial_complete("t0", {"test/accuracy": 0.9})
    values = [t.value for t in searcher.study.study.trials]
    assert values == [pytest.approx(0.5), None, pytest.approx(0.85)]


def test_the_searcher_is_not_restored_from_tunes_files(tmp_path):
    config, folder = sweep(tmp_path, space={"local.lr": {"grid": [0.1]}})
    searcher = trial_searcher(config, folder)
    searcher.save(str(tmp_path / "state"))
    assert not (tmp_path / "state").exists()
    with pytest.raises(NotImplementedError, match="resumed from its own folder"):
        searcher.restore(str(tmp_path / "state"))


def test_a_study_with_diverged_trials_goes_on_and_can_be_resumed(tmp_path):
    """TPE ranks pruned trials behind all others; it does not know failed ones."""
    space = {"local.lr": {"loguniform": [0.01, 1]}}
    tune = {"search": "optuna", "samples": 5, "space": space, "metric": "test/loss"}
    config, folder = sweep(tmp_path, baselines=[], **tune)
    searcher = trial_searcher(config, folder)
    without_score = {REPORT: TrialFailure("LocalDivergenceError: round 1", diverged=True)}
    for i, score in enumerate([0.5, math.nan, None]):
        spec = suggest(searcher, f"t{i}")
        end(folder, i, spec.params, score)
        result = without_score if score is None else {"test/loss": score}
        searcher.on_trial_complete(f"t{i}", result)
    resumed = trial_searcher(config, SweepFolder(folder.path))
    for each in (searcher, resumed):
        assert [(t.state.name, t.value) for t in each.study.study.trials] == [
            ("COMPLETE", 0.5),
            ("PRUNED", None),
            ("PRUNED", None),
        ]
        assert each.study.study.best_value == 0.5 and each.remaining == 2
        assert suggest(each, "next").index == 3


def test_optuna_learns_several_metrics_and_suggests_the_same_again(tmp_path):
    """Also from the folder of an interrupted sweep; what diverges is worse than all others."""
    metric = ["test/accuracy", "comm/uplink_bytes"]
    space = {"local.lr": {"uniform": [0.0, 1.0]}}
    suggested = []
    for attempt in range(2):
        (tmp_path / str(attempt)).mkdir()
        config, folder = sweep(
            tmp_path / str(attempt), search="optuna", samples=15, space=space, metric=metric
        )
        searcher = trial_searcher(config, folder)
        suggest(searcher)
        for i in range(14):
            spec = suggest(searcher, f"t{i}")
            lr = spec.params["local.lr"]
            score = math.nan if lr < 0.3 else 1 - (lr - 0.5) ** 2
            result = {"test/accuracy": score, "comm/uplink_bytes": lr}
            searcher.on_trial_complete(f"t{i}", result)
            folder.trial_started(spec.index, spec.params, "run")
            row = {"status": "completed", "score": None if score != score else score}
            folder.trial_ended(spec.index, "name", {**row, "uplink_bytes": lr})
        suggested.append(suggest(searcher, "last").params)
        states = [t.state.name for t in searcher.study.study.trials]
        assert {"COMPLETE", "PRUNED"} == set(states[:14])
    assert suggested[0] == suggested[1]
    resumed = trial_searcher(config, SweepFolder(tmp_path / "1"))
    assert [t.values for t in resumed.study.study.trials] == [
        t.values for t in searcher.study.study.trials[:14]
    ]


def test_a_trial_that_is_stopped_while_it_is_paused_has_its_last_score(tmp_path):
    space = {"local.lr": {"uniform": [0.1, 1.0]}}
    config, folder = sweep(tmp_path, search="optuna", samples=2, space=space, baselines=[])
    searcher = trial_searcher(config, folder)
    suggest(searcher, "t")
    searcher.on_trial_result("t", {"test/accuracy": 0.4})
    searcher.on_trial_complete("t")
    assert [t.value for t in searcher.study.study.trials] == [0.4]
