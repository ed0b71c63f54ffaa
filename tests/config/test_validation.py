"""Configurations: what is written is what is used, and everything wrong is said at once."""

import pickle

import pytest

from fedsmu_ray.algorithms.registry import FedAvg, FedSMU
from fedsmu_ray.config.loading import apply, parse_overrides, read
from fedsmu_ray.config.validation import load_config, parse
from fedsmu_ray.errors import ConfigError


def problems(plain):
    with pytest.raises(ConfigError) as caught:
        parse(plain)
    return caught.value.problems


def test_defaults_and_profiles():
    authors, paper = parse({}), parse({"algorithm": {"profile": "paper"}})
    assert authors.algorithm == FedSMU(decay=0.9988) and paper.algorithm == FedSMU(decay=1.0)
    assert (authors.local.weight_decay, authors.local.clip_norm) == (0.001, 10.0)
    assert (paper.local.weight_decay, paper.local.clip_norm) == (0.0, None)
    own = parse({"algorithm": {"name": "fedavg"}, "local": {"clip_norm": None}})
    assert (
        own.algorithm == FedAvg()
        and own.local.clip_norm is None
        and own.local.weight_decay == 0.001
    )


def test_resolved_configuration_reads_back_as_itself(tmp_path):
    config = load_config(overrides={"algorithm.profile": "paper", "local.clip_norm": 3.0})
    (tmp_path / "resolved.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "resolved.yaml") == config


def test_every_problem_is_listed_with_the_nearest_key():
    found = problems(
        {
            "seed": -1,
            "data": {"datset": "digits", "clients": "ten", "partition": {"alpha": 0}},
            "algorithm": {"name": "fedsmu", "gama1": 0.1, "beta1": 1.5},
            "local": {"lr": True, "batch_size": 3.5},
            "federaton": {"rounds": 3},
        }
    )
    for words in (
        "seed = -1",
        "data.datset: unknown key; did you mean data.dataset",
        "data.clients = 'ten'",
        "data.partition.alpha = 0",
        "algorithm.gama1: unknown key; did you mean algorithm.gamma1",
        "algorithm.beta1 = 1.5",
        "local.lr = True",
        "local.batch_size = 3.5",
        "federaton: unknown key; did you mean federation",
    ):
        assert any(words in p for p in found), (words, found)
    assert len(found) == 9


@pytest.mark.parametrize(
    "plain, words",
    [
        (
            {"data": {"clients": 5}, "federation": {"cohort": 6}},
            "federation.cohort = 6: only data.clients = 5",
        ),
        (
            {"algorithm": {"name": "fedsum"}},
            "algorithm.name = 'fedsum': must be one of .*did you mean fedsmu",
        ),
        ({"algorithm": {"name": "fedavg", "gamma1": 0.1}}, "FedAvg has lr"),
        ({"compute": {"gpus_per_actor": 1.5}}, "whole number"),
        ({"compute": {"executor": "inline", "gpus_per_actor": 0.5}}, "executor=ray"),
        ({"compute": {"precision": "tf32"}}, "only GPUs have it"),
        ({"data": {"dataset": "digit"}}, "did you mean digits"),
        ({"data": 3}, "data = 3: expected a mapping"),
        ({"local": {"lr": float("nan")}}, "local.lr = nan"),
        ({"lr": 0.1}, "lr: unknown key; did you mean local.lr"),
    ],
)
def test_single_problems(plain, words):
    import re

    (found,) = problems(plain)
    assert re.search(words, found), found


def test_overrides_are_yaml_and_numbers_in_scientific_notation_are_numbers():
    assert parse_overrides(["local.lr=1e-3", "seed=2", "local.clip_norm=null", "name=a=b"]) == {
        "local.lr": 1e-3,
        "seed": 2,
        "local.clip_norm": None,
        "name": "a=b",
    }
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_overrides(["local.lr"])
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_overrides(["local.lr={"])


def test_another_method_drops_the_fields_of_the_first():
    plain = {"algorithm": {"name": "fedsmu", "gamma1": 0.1, "profile": "paper"}}
    assert apply(plain, {"algorithm.name": "fedavg"})["algorithm"] == {
        "name": "fedavg",
        "profile": "paper",
    }
    assert apply(plain, {"algorithm.name": "fedsmu"})["algorithm"] == plain["algorithm"]
    assert plain["algorithm"]["gamma1"] == 0.1


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: [", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("seed: 1\nseed: 2", "given twice"),
        ("\x00", "not valid YAML"),
    ],
)
def test_broken_files(tmp_path, text, words):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "missing.yaml")


def test_errors_survive_a_process_boundary():
    error = pickle.loads(pickle.dumps(ConfigError(["a: b", "c: d"])))
    assert error.problems == ["a: b", "c: d"] and "2 problems" in str(error)
