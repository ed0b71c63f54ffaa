"""What computes an experiment: versions of the software, and digests of the code."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch

from fedsmu_ray import plugins
from fedsmu_ray.errors import ExecutionError

COMPUTING = ("fedsmu_ray", "torch", "numpy")  # what rounds a result
DIGITS = 12  # of a digest, enough to tell two versions of a file apart
_PACKAGE = Path(__file__).parent.parent


def versions() -> dict[str, str]:
    """Version by name: of this package, Python, torch, NumPy and the user's own modules.

    The package's has a digest of its code; a user's module has nothing else.
    """
    own = vars(sys.modules["fedsmu_ray"])["__version__"]
    return {
        "fedsmu_ray": f"{own} (code {_package_digest()})",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        **{
            module.__name__: f"code {_digest([Path(module.__file__)])}"
            for module in plugins.user_modules()
            if module.__file__ and Path(module.__file__).is_file()
        },
    }


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, as `name version instead of version`.

    Names that only one of them has do not count: a module may not be imported yet.
    """
    return [
        f"{name} {now[name]} instead of {version}"
        for name, version in before.items()
        if now.get(name, version) != version
    ]


def check_versions(expected: Mapping[str, str], found: Mapping[str, str], who: str) -> None:
    """Raise ExecutionError if a process has other software than the driver.

    who: names the process and its host. Ray compares its own version and Python's; the user's
    modules are sent along.
    """
    if differing := differences({name: expected[name] for name in COMPUTING}, found):
        raise ExecutionError(
            f"{who} has {', '.join(differing)}: the result would depend on who trains which "
            "client; install the same versions on all nodes (constraints.txt), and start Ray there "
            "again"
        )


@cache
def _package_digest() -> str:
    return _digest(sorted(_PACKAGE.rglob("*.py")))


def _digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:DIGITS]
