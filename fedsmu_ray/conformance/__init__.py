"""Checks that every federated method has to pass, and a command that runs them.

In a pytest file of your own:

    import pytest
    from fedsmu_ray.conformance import CHECKS, Subject

    SUBJECT = Subject("import:my_method:MyMethod", {"gamma": 0.01}, accuracy=0.5)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(SUBJECT)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsmu_ray.conformance.checks import CHECKS, ConformanceError
    from fedsmu_ray.conformance.subject import Subject

__all__ = ["CHECKS", "ConformanceError", "Subject"]
_EXPORTS = {"CHECKS": "checks", "ConformanceError": "checks", "Subject": "subject"}


def __getattr__(name: str) -> Any:
    """Import an export on first use: `--help` of the command does not need torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'fedsmu_ray.conformance' has no attribute '{name}'")
    return getattr(import_module(f"fedsmu_ray.conformance.{_EXPORTS[name]}"), name)
