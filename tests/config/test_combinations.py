"""Values that are valid by themselves but not together."""

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError


def problems(**plain):
    with pytest.raises(ConfigError) as error:
        parse(plain)
    return error.value.problems


@pytest.mark.parametrize(
    "stop, more, words",
    [
        ({"metric": "test/acuracy", "target": 0.5}, {}, "did you mean test/accuracy?"),
        ({"metric": "comm/uplink_bytes", "target": 5}, {}, "must be one of test/accuracy"),
        ({"metric": "time/round_s", "target": 5}, {}, "must be one of test/accuracy"),
        ({"metric": "val/loss", "target": 0.5}, {}, "there are no validation samples"),
        (
            {"metric": "test/loss", "target": 0.5},
            {"data": {"validation": 0.1}},
            "no run ends by its results on the test set; use val/accuracy or val/loss",
        ),
        ({"target": 80.0}, {}, "test/accuracy is from 0 to 1; give a value above 0"),
        ({"target": 0.0}, {"data": {"validation": 0.1}}, "val/accuracy is from 0 to 1"),
        ({"min_rounds": 5}, {}, "neither target nor patience is given"),
        ({"metric": "test/loss"}, {}, "neither target nor patience is given"),
        ({"patience": 3, "min_rounds": 101}, {}, "more than federation.rounds = 100"),
        ({"patience": 0}, {}, "federation.stop.patience = 0: "),
        ({"rounds": 3}, {}, "federation.stop.rounds: unknown key"),
        (5, {}, "federation.stop = 5: expected a mapping"),
    ],
    ids=str,
)
def test_what_federation_stop_cannot_be(stop, more, words):
    (problem,) = problems(federation={"stop": stop}, **more)
    assert problem.startswith("federation.stop") and words in problem


def test_federation_stop_may_be_null():
    assert not parse({"federation": {"stop": None}}).federation.stop.is_set
    loss = {"metric": "train/loss", "target": 2.5, "patience": 3, "min_rounds": 100}
    assert parse({"federation": {"stop": loss}}).federation.stop.is_set


@pytest.mark.parametrize("name", ["scaffold", "scallion", "feddyn", "ef21", "dlion", "fedcams"])
def test_weights_are_refused_by_methods_that_need_equal_ones(name):
    (problem,) = problems(federation={"weighting": "samples"}, algorithm={"name": name})
    assert problem.startswith(f"federation.weighting = samples: algorithm.name = {name} needs")
    assert problem.endswith("use federation.weighting=uniform")
    assert parse({"federation": {"weighting": "uniform"}, "algorithm": {"name": name}})


@pytest.mark.parametrize(
    "tune, targets, words",
    [
        ({"metric": "target/0.8/uplink_bytes"}, [], "federation.targets is empty; add"),
        ({"metric": "target/0.8/bytes"}, [0.8], "federation.targets has target/0.8/rounds, "),
        ({"metric": "target/0.80/rounds"}, [0.8, 0.9], "federation.targets has target/0.8/"),
        ({"metric": "target/x/rounds"}, [0.8], "federation.targets has "),
        (
            {"metric": "target/0.8/rounds", "scheduler": "asha"},
            [0.8],
            "known only when a trial has reached the accuracy",
        ),
        ({"metric": "target/0.8/rounds", "mode": "max"}, [0.8], "better when it is smaller"),
        ({"metric": "test/acuracy"}, [], "did you mean test/accuracy?"),
        ({"metric": ["test/accuracy", "test/accuracy"]}, [], "has a metric twice; remove one"),
        ({"metric": ["test/accuracy", "val/loss"]}, [], "there are no validation samples"),
        ({"metric": ["test/accuracy"]}, [], "tune.metric = "),
        (
            {"metric": ["test/accuracy", "comm/uplink_bytes"], "scheduler": "median"},
            [],
            "it stops trials by one metric, and tune.metric has 2; set tune.scheduler=none",
        ),
        ({"metric": "comm/uplink_bytes"}, [], "whoever learns nothing may send the least"),
        ({"scheduler": "hyperband", "seeds": 3}, [], "set tune.seeds=1, or use asha or median"),
        ({"scheduler": "hyperband", "concurrent": 2}, [], "remove tune.concurrent"),
        ({"scheduler": "pbt"}, [], "must be none, asha, median or hyperband"),
        ({"targets": [0.8]}, [], "tune.targets: is federation.targets now; write it there"),
    ],
    ids=str,
)
def test_what_the_metric_of_a_sweep_cannot_be(tune, targets, words):
    (problem,) = problems(tune=tune, federation={"targets": targets})
    assert problem.startswith("tune.") and words in problem


def test_files_of_earlier_releases_have_an_empty_list_of_targets():
    assert parse({"tune": {"targets": []}}) == parse({})


@pytest.mark.parametrize(
    "local, words",
    [
        ({"epochs": 3, "steps": 7}, "local.steps = 7: clients train for local.epochs = 3 already"),
        ({"epochs": None}, "local.epochs = null: clients would not train"),
        ({"epochs": {"uniform": [5, 1]}}, "local.epochs = {'uniform': [5, 1]}: draws are from"),
        ({"steps": {"uniform": [5, 1]}}, "write {uniform: [1, 5]}"),
        ({"epochs": {"uniform": [0, 1]}}, "local.epochs = {'uniform': [0, 1]}: "),
        ({"epochs": {"uniform": [1, 2, 3]}}, "local.epochs = {'uniform': [1, 2, 3]}: "),
        ({"epochs": {"normal": [1, 2]}}, "local.epochs = {'normal': [1, 2]}: "),
        ({"epochs": {}}, "local.epochs = {}: "),
        ({"steps": 0}, "local.steps = 0: "),
        ({"epochs": 0}, "local.epochs = 0: must be greater than or equal to 1"),
        (
            {"micro_batch_size": 50},
            "local.micro_batch_size = 50: local.batch_size = 50 is computed",
        ),
        ({"micro_batch_size": 0}, "local.micro_batch_size = 0: must be greater than or equal to 1"),
        ({"optimizer": {"name": "adamax"}}, "local.optimizer.name = 'adamax': must be sgd, adam"),
        ({"optimizer": {"momentum": 1}}, "local.optimizer.momentum = 1: must be less than 1"),
        (
            {"optimizer": {"nesterov": True}},
            "local.optimizer.nesterov = true: there is no momentum",
        ),
        (
            {"optimizer": {"name": "adam", "momentum": 0.9}},
            "local.optimizer.momentum = 0.9: local.optimizer.name = adam does not read it (only "
            "sgd)",
        ),
        (
            {"optimizer": {"name": "lion", "epsilon": 1e-3}},
            "local.optimizer.epsilon = 0.001: local.optimizer.name = lion does not read it (only "
            "adam, adamw)",
        ),
        ({"optimizer": {"beta1": 0.5}}, "name = sgd does not read it (only adam, adamw, lion)"),
    ],
    ids=str,
)
def test_what_local_work_cannot_be(local, words):
    (problem,) = problems(local=local)
    assert words in problem


@pytest.mark.parametrize(
    "local", [{"steps": 7}, {"epochs": None, "steps": 7}, {"epochs": {"uniform": [1, 5]}}, {}]
)
def test_local_work_is_read_again_as_it_was_written(local):
    config = parse({"local": local})
    assert (config.local.epochs is None) == ("steps" in local)
    assert parse(config.to_dict()) == config


@pytest.mark.parametrize(
    "federation, words",
    [
        ({"candidates": 20}, "candidates = 20: federation.sampling = uniform does not read it"),
        (
            {"candidates": 9, "sampling": "power_of_choice"},
            "must be from federation.cohort = 10 to",
        ),
        ({"candidates": 101, "sampling": "power_of_choice"}, "to data.clients = 100"),
    ],
    ids=str,
)
def test_what_candidates_cannot_be(federation, words):
    (problem,) = problems(federation=federation)
    assert words in problem


@pytest.mark.parametrize(
    "algorithm, optimizer, words",
    [
        (
            {"name": "scaffold"},
            {"momentum": 0.9},
            "momentum = 0.9: algorithm.name = scaffold needs",
        ),
        ({"name": "scallion"}, {"name": "adam"}, "local.optimizer.name = adam: algorithm.name = s"),
        ({"name": "fednova"}, {"name": "lion"}, "over the number of steps of SGD; remove"),
        ({"name": "fedlion"}, {"name": "lion"}, "its clients train by Lion, with algorithm.beta1"),
        ({"name": "dlion", "local": "lion"}, {"name": "adam"}, "algorithm.local = lion trains by"),
    ],
    ids=str,
)
def test_methods_that_need_plain_sgd_say_why(algorithm, optimizer, words):
    (problem,) = problems(algorithm=algorithm, local={"optimizer": optimizer})
    assert problem.startswith("local.optimizer.") and words in problem


@pytest.mark.parametrize("algorithm", [{"name": "fedsmu"}, {"name": "dlion", "local": "sgd"}])
def test_other_methods_take_any_optimizer(algorithm):
    parse({"algorithm": algorithm, "local": {"optimizer": {"name": "adam"}}})
