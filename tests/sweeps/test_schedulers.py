"""Which trials a scheduler may stop, and which wait."""

from math import inf, nan
from types import SimpleNamespace

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from fedsmu_ray.config.validation import parse
from fedsmu_ray.sweeps.schedulers import scheduler
from fedsmu_ray.sweeps.space import TrialSpec

CONFIG = parse({"tune": {"scheduler": "asha", "baselines": [{"algorithm.name": "fedavg"}]}})


def tune_trial(index, setting=None, **fields):
    spec = TrialSpec.of(CONFIG, index, {"local.lr": 1 + (setting or index), "seed": index})
    return SimpleNamespace(config=spec.to_tune(), **fields), spec


def test_asha_stops_trials_and_never_the_baselines():
    chosen = scheduler(CONFIG.tune, rounds=9)
    decisions = []
    for index, accuracy in ((1, 0.9), (2, 0.8), (3, 0.1), (0, 0.0)):
        trial, _ = tune_trial(index, trial_id=str(index))
        chosen.on_trial_add(None, trial)
        result = {"round": 1, "test/accuracy": accuracy}
        decisions.append(chosen.on_trial_result(None, trial, result))
    assert decisions[0] == decisions[3] == TrialScheduler.CONTINUE
    assert decisions[2] == TrialScheduler.STOP
    plain = parse({"tune": {"scheduler": "none"}}).tune
    assert isinstance(scheduler(plain, rounds=9), FIFOScheduler)


def test_asha_stops_what_diverges_and_compares_the_others_without_it():
    tune = {"scheduler": "asha", "metric": "test/loss", "baselines": [{"local.lr": 9}]}
    chosen = scheduler(parse({"tune": tune}).tune, rounds=9)
    decisions = {}
    for index, loss in ((0, nan), (1, nan), (2, 0.3), (3, inf), (4, 0.2), (5, 0.1), (6, 0.9)):
        trial, _ = tune_trial(index, trial_id=str(index))
        chosen.on_trial_add(None, trial)
        result = {"round": 1, "test/loss": loss}
        decisions[index] = chosen.on_trial_result(None, trial, result)
        if decisions[index] == TrialScheduler.STOP:
            chosen.on_trial_complete(None, trial, result)
    stopped = [index for index, d in decisions.items() if d == TrialScheduler.STOP]
    assert stopped == [1, 3, 6]


def test_asha_judges_a_setting_by_the_mean_of_its_seeds_and_stops_all_of_them():
    tune = parse({"tune": {"scheduler": "asha", "seeds": 2}}).tune
    chosen = scheduler(tune, rounds=9)

    def decide(index, setting, round, accuracy):
        trial, _ = tune_trial(index, setting, trial_id=str(index))
        if round == 1:
            chosen.on_trial_add(None, trial)
        result = {"round": round, "test/accuracy": accuracy}
        return chosen.on_trial_result(None, trial, result)

    assert decide(0, 1, 1, 0.8) == TrialScheduler.CONTINUE
    assert decide(2, 2, 1, 0.9) == TrialScheduler.CONTINUE
    assert decide(3, 2, 1, 0.85) == TrialScheduler.CONTINUE  # as the mean 0.875 does, not 0.85
    assert decide(1, 1, 1, 0.4) == TrialScheduler.STOP  # the mean is 0.6
    assert decide(0, 1, 2, 0.99) == TrialScheduler.STOP  # another trial of it was stopped
    assert decide(4, 3, 1, 0.85) == TrialScheduler.STOP


def test_the_median_rule_stops_what_is_worse_than_the_median_of_the_others_so_far():
    """From three other settings on; neither baselines nor trials that wait are paused for it."""
    plain = {"scheduler": "median", "baselines": [{"algorithm.name": "fedavg"}]}
    chosen = scheduler(parse({"tune": plain}).tune, rounds=9)
    decisions = {}
    for index, accuracy in ((1, 0.9), (2, 0.8), (3, 0.7), (4, 0.75), (5, 0.85), (6, nan), (0, 0.0)):
        trial = FakeTrial(tune_trial(index)[0].config)
        chosen.on_trial_add(None, trial)
        result = {"round": 1, "test/accuracy": accuracy}
        decisions[index] = chosen.on_trial_result(None, trial, result)
    stopped = [index for index, d in decisions.items() if d == TrialScheduler.STOP]
    assert stopped == [4, 6] and set(decisions.values()) == {"CONTINUE", "STOP"}


def test_trials_of_a_bracket_wait_for_each_other_and_one_in_three_goes_on():
    plain = {"scheduler": "hyperband", "baselines": [{"algorithm.name": "fedavg"}]}
    chosen = scheduler(parse({"tune": plain}).tune, rounds=3)
    ended, trials = [], {}
    controller = SimpleNamespace(
        stop_trial=ended.append, get_live_trials=lambda: set(trials.values())
    )
    for index in range(6):  # a bracket of two that train to the end, and one of three
        made, _ = tune_trial(index, trial_id=str(index))
        trials[index] = FakeTrial(made.config)
        chosen.on_trial_add(controller, trials[index])
    assert chosen.choose_trial_to_run(controller) is trials[0]  # the baseline

    def decide(index, accuracy):
        trials[index].status = "RUNNING"
        result = {"round": 1, "test/accuracy": accuracy}
        decision = chosen.on_trial_result(controller, trials[index], result)
        trials[index].status = {"PAUSE": "PAUSED"}.get(decision, "RUNNING")
        return decision

    assert decide(0, 0.0) == decide(1, 0.1) == "CONTINUE"
    assert decide(3, 0.5) == decide(4, 0.7) == "PAUSE"
    assert decide(5, 0.6) == "STOP" and ended == [trials[3]]
    assert chosen.choose_trial_to_run(controller) is trials[2]  # the only one that is pending
    trials[2].status = "RUNNING"
    assert chosen.choose_trial_to_run(controller) is trials[4]  # goes on
    assert decide(2, nan) == "STOP"


class FakeTrial:
    """A trial of Tune, as far as schedulers know it."""

    def __init__(self, config):
        self.config, self.status, self.is_saving = config, "PENDING", False
        self.trial_id = str(id(self))
