"""Data sets by name, and the descriptions of their options."""

from dataclasses import fields, is_dataclass
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.hugging_face import HuggingFace
from fedsmu_ray.datasets.imported import Imported
from fedsmu_ray.datasets.registry import DATASETS, find
from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load

MISSPELLED = "data.dataset = 'shakespear': must be one of .* did you mean shakespeare"


def test_names_are_checked():
    with pytest.raises(ConfigError, match=MISSPELLED):
        parse({"data": {"dataset": "shakespear"}})
    with pytest.raises(ConfigError, match=MISSPELLED):
        find("shakespear")
    for name in ("hf:", "import:module", "import:a b:f", "import:module:", "x" * 500):
        with pytest.raises(
            ConfigError, match="data.dataset = .*must be one of digits, diabetes, mnist"
        ):
            find(name)


def test_forms_are_found():
    assert find("hf:some/name") is HuggingFace
    assert find("import:package.module:function") is find("import:module:function") is Imported


def test_options_of_a_data_set_without_options():
    with pytest.raises(
        ConfigError, match="data.options.n: unknown key; data.dataset = digits has no options"
    ):
        load("digits", n=1)


def test_data_that_does_not_fit_the_memory():
    with pytest.raises(
        ConfigError, match="data.dataset = synthetic: it does not fit the memory .Un"
    ):
        load("synthetic", classes=2**50)


@pytest.mark.parametrize("name", DATASETS)
def test_every_option_is_described(name):
    source = DATASETS[name]
    assert issubclass(source, DatasetSource) and is_dataclass(source) and source.__doc__
    hints = get_type_hints(source, include_extras=True)
    for field in fields(source):
        assert get_origin(hints[field.name]) is Annotated, field.name
        described = [getattr(m, "description", None) for m in get_args(hints[field.name])[1:]]
        assert any(described), field.name
    assert source.from_options(name, {}) == source()  # every option has a default
