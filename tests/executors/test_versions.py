"""Versions of software and user code: what is recorded, and which differences are named."""

import importlib
import re
import sys

import numpy as np
import pytest

from fedsmu_ray import plugins
from fedsmu_ray.errors import ExecutionError
from fedsmu_ray.executors.versions import check_versions, differences, versions


def test_versions(tmp_path, monkeypatch):
    found = versions()
    assert found["numpy"] == np.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+\S* \(code [0-9a-f]{12}\)", found["fedsmu_ray"])
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "own_code_of_this_test.py"
    file.write_text("def method(): pass\n")
    plugins.load("algorithm.name", "import:own_code_of_this_test:method")
    try:
        before = versions()
        assert before["own_code_of_this_test"].startswith("code ")
        file.write_text("def method(): return 1\n")
        (changed,) = differences(before, versions())
        assert changed.startswith("own_code_of_this_test code ") and " instead of code " in changed
    finally:
        del sys.modules["own_code_of_this_test"]
        importlib.invalidate_caches()


def test_only_what_both_have_differs():
    before = {"torch": "2.11.0", "numpy": "2.0.0", "mine": "code 1"}
    assert differences(before, {"torch": "2.12.0", "numpy": "2.0.0", "other": "code 2"}) == [
        "torch 2.12.0 instead of 2.11.0"
    ]


def test_other_software_is_refused_and_a_module_that_was_edited_is_not():
    expected = {**versions(), "mine": "code 1"}
    check_versions(expected, {**expected, "mine": "code 2", "python": "3.12.99"}, "h2")
    with pytest.raises(ExecutionError, match="^h2 has numpy 1.0 instead of .*constraints.txt"):
        check_versions(expected, {**expected, "numpy": "1.0"}, "h2")
