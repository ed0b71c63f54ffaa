"""Checks that every federated method has to pass, and a command that runs them.

In a pytest file of your own:

    import pytest
    from fedsmu_ray.conformance import CHECKS, Subject

    SUBJECT = Subject("import:my_method:MyMethod", {"gamma": 0.01}, accuracy=0.5)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(SUBJECT)
"""

from fedsmu_ray.conformance.checks import CHECKS, ConformanceError
from fedsmu_ray.conformance.subject import Subject

__all__ = ["CHECKS", "ConformanceError", "Subject"]
