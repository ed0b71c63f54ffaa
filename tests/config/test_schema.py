"""The sections: defaults, profiles, the written form, and a description of every key."""

from dataclasses import fields
from typing import get_type_hints

import pytest
import yaml

from fedsmu_ray import cli
from fedsmu_ray.algorithms.registry import METHODS, FedAvg, FedSMU
from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.schema import SECTIONS, Config, declared_keys
from fedsmu_ray.config.validation import all_keys, parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models.registry import MODELS


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


def test_defaults_are_spelled_out_and_survive_a_round_trip():
    config = parse({"model": {"name": "resnet18_gn"}})
    assert (config.model.stem, config.model.groups) == ("imagenet", 2)
    assert not hasattr(config.model, "hidden")
    model = {"name": "resnet18_gn", "stem": "imagenet", "norm": "group", "groups": 2}
    assert config.to_dict()["model"] == model
    assert parse(config.to_dict()) == config
    assert load_config(None).model.hidden == (200, 200)


# Older versions wrote the options of all models, null for those that the model does not have.
OLD_MODEL = """
name: lenet
hidden: null
filters: 64
stem: null
groups: null
patch: null
image_size: null
options: null
"""


def test_files_of_older_versions_are_read():
    plain = parse({"model": {"name": "lenet"}, "tune": {"samples": 3}}).to_dict()
    old = {**plain, "model": yaml.safe_load(OLD_MODEL)}
    config, before = parse(old), parse(plain)
    assert config == before and config.flat() == before.flat()
    assert parse({"model": {"name": "lenet", "filters": None}}).model.filters == 64


def test_names_are_kept_as_written():
    config = parse({"algorithm": {"name": "fedavg"}, "model": {"name": "torchvision:resnet18"}})
    assert (config.method_name, config.model_name) == ("fedavg", "torchvision:resnet18")
    assert config.flat()["model.name"] == "torchvision:resnet18"
    assert not {k for k in config.flat() if k.startswith(("tune.", "tracking."))}


def test_every_key_has_a_description():
    hints = {key: hint for cls in (*SECTIONS.values(),) for key, hint in declared_keys(cls)}
    hints |= {key: hint for key, hint in declared_keys(Config) if key in ("name", "seed")}
    for cls in (*MODELS.values(), *METHODS.values()):
        annotated = get_type_hints(cls, include_extras=True)
        hints |= {f"{cls.__name__}.{f.name}": annotated[f.name] for f in fields(cls)}
    for key, hint in hints.items():
        assert any(getattr(m, "description", None) for m in getattr(hint, "__metadata__", ())), key


def test_a_metric_is_optimized_in_its_own_direction():
    for tune, direction in (
        ({}, "max"),
        ({"metric": "test/loss"}, "min"),
        ({"metric": "train/loss", "mode": "min"}, "min"),
        ({"mode": None}, "max"),
    ):
        config = parse({"tune": tune})
        assert config.tune.direction == direction and parse(config.to_dict()) == config


def test_secrets_are_in_no_form_of_a_configuration_that_is_written():
    uri, options = "http://me:secret@host", {"token": "secret", "size": 3}
    config = parse({"tracking": {"uri": uri}, "data": {"options": options}})
    written = yaml.safe_load(config.to_yaml())
    assert written["tracking"]["uri"] == "http://me:***@host"
    assert written["data"]["options"] == {"token": "***", "size": 3}
    assert config.flat()["data.options.token"] == "***"
    assert "secret" not in config.to_yaml() + repr(config) + repr(config.tracking)
    assert (config.tracking.uri, config.data.options) == (uri, options)
    config.check_secrets()
    without = config.without_store_password()
    assert "secret" not in str((without.tracking.uri, without.source["tracking"]))
    assert without.data.options == options and parse({}).without_store_password() == parse({})


def test_a_secret_that_was_left_out_has_to_be_given_again():
    config = parse(
        {"tracking": {"uri": "http://me:***@host"}, "data": {"options": {"token": "***"}}}
    )
    with pytest.raises(ConfigError, match="data.options.token: .* give it again"):
        config.check_secrets()
    apply_token = {"tracking": {"uri": "http://me:***@host"}, "data": {"options": {"token": "x"}}}
    parse(apply_token).check_secrets()  # the store asks for its own password


def test_messages_about_values_have_no_secrets():
    for plain, words in [
        ({"tracking": {"uri": "http://me:secret@host\n"}}, "http://me:\\*\\*\\*@host"),
        ({"local": {"password": "secret"}}, "local.password: unknown key"),
        ({"data": {"options": {"token": float("inf"), "api_key": b"secret"}}}, "token"),
        ({"tracking": {"experiment": ["http://me:secret@host"]}}, "tracking.experiment"),
    ]:
        with pytest.raises(ConfigError, match=words) as error:
            parse(plain)
        assert "secret" not in str(error.value)


def test_the_store_is_the_same_in_every_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse({}).anywhere().tracking.uri == f"sqlite:///{tmp_path}/mlflow.db"
    for uri in (None, "http://host"):
        config = parse({"tracking": {"uri": uri}})
        assert config.anywhere() == config


def test_the_list_of_all_keys_is_current():
    """Wrong options are answered and keys completed from it, without importing torch."""
    command = "from fedsmu_ray.config.validation import all_keys; print(*all_keys(), sep='\\n')"
    assert cli.KEYS.read_text(encoding="utf-8").split() == all_keys(), (
        f'run: python -c "{command}" > fedsmu_ray/config/keys.txt'
    )
