"""Data sets loaded by a function of the user."""

import pytest

from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load

USER = "import:tests.helpers.dataset_files"


def test_a_users_own_function():
    data = load(f"{USER}:user_loader", n=40)
    assert len(data.train_y) == 40 and data.is_image
    for name, message in [
        (
            "user_loader_that_returns_a_list",
            "returned a list; it must return a mapping with train_x",
        ),
        ("nothing", "has no function or class nothing"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load(f"{USER}:{name}")
    with pytest.raises(ConfigError, match=f"{USER}:user_loader: m unknown"):
        load(f"{USER}:user_loader", m=40)


def test_tokens_have_a_number_of_symbols():
    data = load(f"{USER}:user_loader_of_tokens")
    assert data.symbols == 7 and not data.is_image and data.train_x.dtype.kind == "i"
