"""Search spaces and the trials that follow from them."""

import copy
import math
import pickle

import pytest

from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.config.yaml_files import read_yaml
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files import recipes
from fedsmu_ray.sweeps import space


def config(**tune):
    return parse({"tune": tune})


def test_grid_is_every_combination_with_the_baselines_first():
    found = space.list_params(
        config(
            space={
                "local.lr": {"grid": [0.1, 0.2]},
                "algorithm.beta1, algorithm.beta2": {"grid": [0.5, 0.9]},
                "seed": 3,
            },
            baselines=[{"algorithm": {"name": "fedavg"}}],
        )
    )
    assert found[0] == {"algorithm.name": "fedavg"}
    assert [
        (t["local.lr"], t["algorithm.beta1, algorithm.beta2"], t["seed"]) for t in found[1:]
    ] == [(a, b, 3) for a in (0.1, 0.2) for b in (0.5, 0.9)]


def test_a_list_is_a_grid():
    short = {"local": {"lr": [0.1, 0.2], "epochs": 1}, "model.hidden": [[16], [8, 8]]}
    assert space.parse_space(short) == space.parse_space(
        {
            "local.lr": {"grid": [0.1, 0.2]},
            "local.epochs": 1,
            "model.hidden": {"grid": [[16], [8, 8]]},
        }
    )
    trials = [space.trial_config(config(), p) for p in space.list_params(config(space=short))]
    assert [(t.local.lr, t.model.hidden) for t in trials] == [
        (lr, hidden) for lr in (0.1, 0.2) for hidden in ((16,), (8, 8))
    ]
    with pytest.raises(ConfigError, match=r"seed: grid needs a list of values, not \[\]"):
        space.parse_space({"seed": []})
    with pytest.raises(ConfigError, match=r"seed = {'grd': \[1\]}: expected one of a list, {grid"):
        space.parse_space({"seed": {"grd": [1]}})


def test_the_error_of_a_users_code_is_behind_that_of_the_sweep(tmp_path, monkeypatch):
    (tmp_path / "broken_module_of_a_space.py").write_text("raise ValueError('here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = "import:broken_module_of_a_space:Method"
    with pytest.raises(ConfigError, match="ValueError: here") as caught:
        space.check(config(space={"algorithm.name": ["fedavg", name]}))
    causes, error = [], caught.value
    while error := error.__cause__:
        causes.append(type(error))
    assert causes[-1] is ValueError


def test_one_value_for_several_keys_reaches_all_of_them():
    trial = space.trial_config(config(), {"algorithm.beta1, algorithm.beta2": 0.7})
    assert trial.algorithm.beta1 == trial.algorithm.beta2 == 0.7


def test_random_draws_are_a_function_of_the_configuration():
    dimensions = {
        "local.lr": {"loguniform": [1e-4, 1]},
        "algorithm.gamma1": {"uniform": [0.1, 0.2]},
        "local.epochs": {"choice": [1, 2]},
    }
    one, two = (
        space.list_params(config(search="random", samples=400, space=dimensions)) for _ in range(2)
    )
    assert one == two and len(one) == 400
    assert all(1e-4 <= t["local.lr"] <= 1 and 0.1 <= t["algorithm.gamma1"] <= 0.2 for t in one)
    assert {t["local.epochs"] for t in one} == {1, 2}
    below = sum(t["local.lr"] < 1e-2 for t in one)  # the lower half of the logarithmic range
    assert abs(below - 200) < 5 * math.sqrt(100)


def test_nested_sections_are_dotted_keys():
    assert (
        space.parse_space({"local": {"lr": {"grid": [1]}}})
        == space.parse_space({"local.lr": {"grid": [1]}})
        == {"local.lr": ("grid", [1])}
    )


@pytest.mark.parametrize(
    "tune, words",
    [
        ({"space": {"local.lr": {"gird": [1]}}}, "expected one of"),
        ({"space": {"local.lr": {"grid": []}}}, "needs a list of values"),
        ({"space": {"local.lr": {"loguniform": [0, 1]}}}, "0 < low < high"),
        ({"space": {"local.lr": {"uniform": [2, 1]}}}, "low < high"),
        ({"space": {"local.lr": {"grid": [0.1, -1]}}}, r"trial \{'local.lr': -1\}: local.lr = -1"),
        ({"space": {"locl.lr": {"grid": [0.1]}}}, "locl: unknown key"),
        ({"space": {"tracking.uri": {"grid": ["x"]}}}, "cannot be swept"),
        (
            {"space": {"data.validation": {"grid": [0.1, 0.2]}}},
            "data.validation: belongs to the sweep",
        ),
        ({"space": {"local.lr": {"uniform": [-1, 1]}}, "search": "optuna"}, "local.lr = -1"),
        (
            {
                "space": {
                    "algorithm.gamma1": {"grid": [0.1]},
                    "algorithm.name": {"grid": ["fedavg"]},
                }
            },
            "FedAvg has lr",
        ),
    ],
)
def test_every_trial_is_checked_before_anything_starts(tune, words):
    with pytest.raises(ConfigError, match=words):
        space.check(config(**tune))


def test_profile_defaults_follow_a_swept_profile():
    base = parse({"tune": {"space": {"algorithm.profile": {"grid": ["authors", "paper"]}}}})
    assert [space.trial_config(base, t).local.weight_decay for t in space.list_params(base)] == [
        0.001,
        0.0,
    ]


def test_quickstart_has_at_least_eight_valid_trials():
    base = load_config()
    space.check(base)
    assert base.source == read_yaml(recipes.path("quickstart"))
    assert len(space.list_params(base)) >= 8


def test_all_recipes_are_valid():
    for recipe in recipes.path("quickstart").parent.glob("*.yaml"):
        space.check(load_config(recipe))
        assert recipe.read_text().startswith("# "), f"{recipe} must say what to expect"


def test_a_trial_is_parsed_once_and_passed_on_unchanged():
    sweep = config(space={"local.lr": {"grid": [0.1, 0.2]}})
    trial = space.TrialSpec.of(sweep, 3, {"local.lr": 0.2, "model.hidden": (8,)})
    assert trial.config.local.lr == 0.2 and trial.params == {"local.lr": 0.2, "model.hidden": [8]}
    assert repr(trial) == "trial 003" and trial.name == "003 lr=0.2, hidden=[8]"
    assert space.TrialSpec.from_tune(trial.to_tune()) is trial
    assert copy.deepcopy(trial) is trial  # copies made by Tune cost nothing
    assert pickle.loads(pickle.dumps(trial)) == trial


@pytest.mark.parametrize(
    "tune",
    [
        {"space": {"local.lr": {"grid": [1]}, "local": {"lr": {"grid": [2]}}}},
        {"space": {"local.lr": {"grid": [1]}, "local.lr, algorithm.gamma1": {"grid": [2]}}},
        {"space": {"local.lr, local.lr": {"grid": [1]}}},
        {"baselines": [{"local.lr": 1, "local": {"lr": 2}}]},
    ],
)
def test_a_key_that_is_given_twice_in_different_forms_is_refused(tune):
    with pytest.raises(ConfigError, match="local.lr: given twice"):
        space.check(parse({"tune": tune}))


def test_every_setting_and_baseline_runs_with_all_seeds():
    tune = {
        "baselines": [{"algorithm.name": "fedavg"}],
        "space": {"local.lr": {"grid": [0.1, 0.2]}},
    }
    for seeds, listed in ((2, [7, 8]), ([3, 1], [3, 1]), ([4], [4])):
        config = parse({"seed": 7, "tune": {**tune, "seeds": seeds}})
        assert space.list_params(config) == [
            {**params, "seed": seed}
            for params in ({"algorithm.name": "fedavg"}, {"local.lr": 0.1}, {"local.lr": 0.2})
            for seed in listed
        ]
    assert space.swept_keys(config.tune) == ["local.lr", "algorithm.name"]
    assert len(space.list_params(parse({"tune": tune}))) == 3
    space.check(config)


def test_seeds_are_draws_of_the_setting_not_new_settings():
    draws = {"seeds": 3, "samples": 2, "space": {"local.lr": {"uniform": [0.1, 0.2]}}}
    found = [params["local.lr"] for params in space.list_params(parse({"tune": draws}))]
    assert found[:3] == found[:1] * 3 != found[3:] == found[3:4] * 3
    one = space.list_params(parse({"tune": {**draws, "seeds": 1}}))
    assert [params["local.lr"] for params in one] == found[::3]


@pytest.mark.parametrize(
    "tune, message",
    [
        ({"seeds": 2, "space": {"seed": {"grid": [1, 2]}}}, "seed: given in tune.space or"),
        ({"seeds": 2, "baselines": [{"seed": 3}]}, "seed: given in tune.space or tune.baselines"),
        (
            {"compare_to": "fedadam", "baselines": [{"algorithm.name": "fedavg"}]},
            "tune.compare_to = 'fedadam': none of tune.baselines .*; they have fedavg",
        ),
        ({"compare_to": "fedavg"}, "tune.compare_to = 'fedavg': .*; there are none"),
        ({"seeds": 100, "space": {"local.lr": {"grid": [0.1] * 1001}}}, "100,100 trials, more"),
    ],
)
def test_seeds_and_comparisons_that_cannot_be(tune, message):
    with pytest.raises(ConfigError, match=message):
        space.check(parse({"tune": {"space": {"local.lr": {"grid": [0.1]}}, **tune}}))


@pytest.mark.parametrize("seeds", [0, -1, [], [-1], [1.5], "3"])
def test_wrong_seeds_are_named(seeds):
    with pytest.raises(ConfigError, match="tune.seeds = "):
        space.check(parse({"tune": {"seeds": seeds}}))


def test_the_keys_in_which_trials_differ():
    tune = {"space": {"local.lr": [0.1], "algorithm.beta1, algorithm.beta2": [0.5]}}
    swept = {"local.lr", "algorithm.beta1", "algorithm.beta2"}
    baselines = [{"algorithm": {"name": "fedavg"}}]
    for more, expected in (
        ({}, swept),
        ({"baselines": baselines}, swept | {"algorithm.name"}),
        ({"seeds": 2}, swept | {"seed"}),
        ({"seeds": [5]}, swept | {"seed"}),
        ({"baselines": [{"seed": 3}]}, swept | {"seed"}),
    ):
        assert space.differing_keys(parse({"tune": {**tune, **more}}).tune) == expected


def test_drawn_work_can_be_swept():
    drawn = {"uniform": [1, 5]}
    both = config(space={"local.epochs": {"choice": [drawn, 3]}}, search="random", samples=20)
    found = [t["local.epochs"] for t in space.list_params(both)]
    assert drawn in found and 3 in found and len(found) == 20
    space.check(both)
    grid = config(space={"local.epochs": [drawn, 3, 4]})
    space.check(grid)
    params = space.list_params(grid)
    assert [t["local.epochs"] for t in params] == [drawn, 3, 4]
    assert [space.trial_config(grid, t).local.epochs for t in params] == [drawn, 3, 4]
    assert len({space.TrialSpec.of(grid, i, t).name for i, t in enumerate(params)}) == 3
