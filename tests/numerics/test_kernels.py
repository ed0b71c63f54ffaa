"""When kernels are compiled and cached. Their results are tested in test_passes and tests/wire."""

import subprocess
import sys

from fedsmu_ray.numerics import kernels

RUN = """
import sys
from fedsmu_ray import run
from fedsmu_ray.config import validation
run(validation.parse({config!r}))
print('numba' in sys.modules)
"""


def test_small_models_do_not_load_the_compiler():
    config = {
        "data": {"dataset": "digits", "clients": 4},
        "federation": {"cohort": 2, "rounds": 1},
        "compute": {"executor": "inline"},
        "tracking": {"uri": None},
    }
    code = RUN.format(config=config)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split()[-1:] == ["False"], done.stderr


def test_kernels_are_cached_on_disk_only_where_that_is_possible(monkeypatch):
    def refuse(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: ("compiled", function)

    monkeypatch.setattr(kernels, "njit", refuse)
    assert kernels.compiled(len) == ("compiled", len)
