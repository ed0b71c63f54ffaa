"""JSON that every reader accepts."""

import json
import math

from fedsmu_ray.files.valid_json import to_json


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_nan_and_infinity_are_null_at_any_depth():
    value = {"a": math.nan, "b": [1.5, -math.inf, {"c": (math.inf, 2)}], "d": "NaN", "e": None}
    read = json.loads(to_json(value), parse_constant=refuse)
    assert read == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": "NaN", "e": None}
    assert math.isnan(value["a"])  # a copy was changed


def test_what_json_lacks_is_text():
    assert to_json({"path": json}).startswith('{"path": "<module') and "\n" not in to_json("a\nb")
