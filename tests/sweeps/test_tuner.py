"""Which trials ASHA may stop."""

from math import inf, nan
from types import SimpleNamespace

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from fedsmu_ray.config.validation import parse
from fedsmu_ray.sweeps import tuner
from fedsmu_ray.sweeps.space import TrialSpec

CONFIG = parse({"tune": {"scheduler": "asha", "baselines": [{"algorithm.name": "fedavg"}]}})


def tune_trial(index, setting=None, **fields):
    spec = TrialSpec.of(CONFIG, index, {"local.lr": 1 + (setting or index), "seed": index})
    return SimpleNamespace(config=spec.to_tune(), **fields), spec


def test_asha_stops_trials_and_never_the_baselines():
    scheduler = tuner._scheduler(CONFIG.tune, rounds=9)
    decisions = []
    for index, accuracy in ((1, 0.9), (2, 0.8), (3, 0.1), (0, 0.0)):
        trial, _ = tune_trial(index, trial_id=str(index))
        scheduler.on_trial_add(None, trial)
        result = {"round": 1, "test/accuracy": accuracy}
        decisions.append(scheduler.on_trial_result(None, trial, result))
    assert decisions[0] == decisions[3] == TrialScheduler.CONTINUE
    assert decisions[2] == TrialScheduler.STOP
    plain = parse({"tune": {"scheduler": "none"}}).tune
    assert isinstance(tuner._scheduler(plain, rounds=9), FIFOScheduler)


def test_asha_stops_what_diverges_and_compares_the_others_without_it():
    tune = {"scheduler": "asha", "metric": "test/loss", "baselines": [{"local.lr": 9}]}
    scheduler = tuner._scheduler(parse({"tune": tune}).tune, rounds=9)
    decisions = {}
    for index, loss in ((0, nan), (1, nan), (2, 0.3), (3, inf), (4, 0.2), (5, 0.1), (6, 0.9)):
        trial, _ = tune_trial(index, trial_id=str(index))
        scheduler.on_trial_add(None, trial)
        result = {"round": 1, "test/loss": loss}
        decisions[index] = scheduler.on_trial_result(None, trial, result)
        if decisions[index] == TrialScheduler.STOP:
            scheduler.on_trial_complete(None, trial, result)
    stopped = [index for index, d in decisions.items() if d == TrialScheduler.STOP]
    assert stopped == [1, 3, 6]


def test_asha_judges_a_setting_by_the_mean_of_its_seeds_and_stops_all_of_them():
    tune = parse({"tune": {"scheduler": "asha", "seeds": 2}}).tune
    scheduler = tuner._scheduler(tune, rounds=9)

    def decide(index, setting, round, accuracy):
        trial, _ = tune_trial(index, setting, trial_id=str(index))
        if round == 1:
            scheduler.on_trial_add(None, trial)
        result = {"round": round, "test/accuracy": accuracy}
        return scheduler.on_trial_result(None, trial, result)

    assert decide(0, 1, 1, 0.8) == TrialScheduler.CONTINUE
    assert decide(2, 2, 1, 0.9) == TrialScheduler.CONTINUE
    assert decide(3, 2, 1, 0.85) == TrialScheduler.CONTINUE  # as the mean 0.875 does, not 0.85
    assert decide(1, 1, 1, 0.4) == TrialScheduler.STOP  # the mean is 0.6
    assert decide(0, 1, 2, 0.99) == TrialScheduler.STOP  # another trial of it was stopped
    assert decide(4, 3, 1, 0.85) == TrialScheduler.STOP
