"""Arrays from what users hand over: lists, tensors, data frames, NumPy arrays of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray.errors import ConfigError

EXACT = 2.0**53  # whole floats below it are exact


def as_array(values: Any, what: str) -> NDArray[Any]:
    """The values as an array of numbers or text, without a copy where there is one already.

    what: names them in messages. Raises ConfigError for ragged lists, mixed types, masked values
    and whatever else is no array.
    """
    try:
        array = np.asarray(_without_tensors(values))
        if array.dtype == object and array.ndim:
            array = np.asarray(array.tolist())
        if np.ma.is_masked(values):
            raise ValueError("some of the values are masked")
        is_text = array.dtype.kind in "US" and array.ndim == 1
        if is_text and not all(isinstance(v, (str, bytes)) for v in values):
            raise ValueError("text and other values are mixed")
    except Exception as error:  # of many types, depending on what was handed over
        raise ConfigError(
            [f"{what} is not an array: {error}; all its rows must have one shape and type"]
        ) from error
    if array.dtype.kind not in "biufUS" or not array.ndim:
        raise ConfigError(
            [
                f"{what} {_kind(array, values)}; it must be an array, list or tensor of "
                "numbers, without missing values"
            ]
        )
    return array


def whole_numbers(array: NDArray[Any], what: str) -> NDArray[Any]:
    """Whole numbers or text as they are; booleans and floats that are whole as int64.

    Raises ConfigError that names `what` and the first other value.
    """
    if array.dtype.kind == "b":
        return array.astype(np.int64)
    if array.dtype.kind != "f":
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        wrong = np.argwhere(~((array % 1 == 0) & (np.abs(array) < EXACT)))
    if len(wrong):
        at = tuple(wrong[0].tolist())
        raise ConfigError([f"{what}{list(at)} = {array[at]}: it must hold whole numbers (or text)"])
    return array.astype(np.int64)


def count(value: Any, what: str) -> int:
    """One positive whole number; raises ConfigError that names `what`."""
    array = as_array([value], what).reshape(-1)
    if len(array) == 1 and array.dtype.kind in "iuf" and array[0] >= 1 and array[0] % 1 == 0:
        return int(array[0])
    raise ConfigError([f"{what} = {value!r}: it must be one positive whole number"])


def floats(value: Any, what: str, expected: int) -> tuple[float, ...]:
    """So many finite numbers; raises ConfigError that names `what`."""
    array = as_array([value], what).reshape(-1)
    if len(array) == expected and array.dtype.kind in "iuf" and np.isfinite(array).all():
        return tuple(array.astype(np.float64).tolist())
    raise ConfigError([f"{what} = {value!r}: expected {expected} finite numbers"])


def _without_tensors(values: Any) -> Any:
    """Tensors, and those in a list, as arrays."""
    if hasattr(values, "detach"):
        has_no_numpy_type = values.is_floating_point() and values.dtype.itemsize < 4
        return (values.float() if has_no_numpy_type else values).numpy(force=True)
    if isinstance(values, (list, tuple)) and len(values) and hasattr(values[0], "detach"):
        return [_without_tensors(value) for value in values]
    return values


def _kind(array: NDArray[Any], values: Any) -> str:
    """What is in an array that is no good, for a message."""
    if array.ndim == 0:
        return f"is of type {type(values).__name__}"
    if array.dtype != object:
        return f"holds values of type {array.dtype}"
    other = next((v for v in array.flat if not isinstance(v, (int, float))), array.flat[0])
    return f"holds values of type {type(other).__name__}, such as {str(other)[:40]!r}"
