"""Python objects in a configuration, in place of names: functions, classes, modules and data."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fedsmu_ray import plugins
from fedsmu_ray.config.plain_data import MAX_DEPTH
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError

DATA = "data.dataset"
SECTIONS = ("model", "algorithm")
# Keys whose values are names, in a search space and in baselines, too.
_NAMES = re.compile(
    r"(.+\.)?(model\.name|algorithm\.name|data\.dataset|task\.loss|federation\.sampling)"
    r"(\.(grid|choice))?"
)


def named(value: Any, key: str = "", depth: int = 0) -> Any:
    """Plain data with names in place of the objects in it.

    Objects are functions, classes, a `torch.nn.Module` (the model; training begins at its
    parameters), and a `Dataset` or a mapping of arrays as `data.dataset`. As a whole section an
    object stands for its name. Elsewhere they stay, and are refused as what no configuration can
    hold. key, depth: where `value` is. Raises ConfigError for a class that cannot be a model's
    function.
    """
    if depth > MAX_DEPTH:
        return value  # which is refused with a message
    if callable(value) and (key in SECTIONS or _NAMES.fullmatch(key)):
        name = plugins.name_of(_as_function(value, key))
        return {"name": name} if key in SECTIONS else name
    if isinstance(value, Dataset) or (isinstance(value, Mapping) and key == DATA):
        return plugins.name_of(GivenData(value))
    if isinstance(value, Mapping):
        inner = {name: f"{key}.{name}" if key else str(name) for name in value}
        return {name: named(value[name], where, depth + 1) for name, where in inner.items()}
    if isinstance(value, (list, tuple)):
        return [named(each, key, depth + 1) for each in value]
    return value


def _as_function(value: Any, key: str) -> Callable[..., Any]:
    if isinstance(value, nn.Module):
        return ModuleCopies(value)
    if isinstance(value, type) and issubclass(value, nn.Module):
        try:
            inspect.signature(value).bind_partial((), 0)  # shape, classes
        except TypeError:
            raise ConfigError(
                [
                    f"{key} = {value.__name__}: a class whose constructor does not take the shape "
                    f"of a sample and the number of classes; pass an instance, {value.__name__}(), "
                    "or a function (shape, classes) that returns one"
                ]
            ) from None
    return value  # type: ignore[no-any-return]


class ModuleCopies:
    """A model's function that returns copies of a module as it is now."""

    def __init__(self, module: nn.Module) -> None:
        self.__name__ = type(module).__name__
        self.__module__ = type(module).__module__
        self.module = copy.deepcopy(module)

    def __call__(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A copy, whatever the data."""
        return copy.deepcopy(self.module)


class GivenData:
    """A data set's function that returns what was given."""

    def __init__(self, data: Dataset | Mapping[str, Any]) -> None:
        self.__name__ = data.name if isinstance(data, Dataset) else "arrays"
        self.data = data

    def __call__(self, root: Any) -> Dataset | Mapping[str, Any]:
        """The data, wherever `data.root` is."""
        return self.data
