"""Print the versions for constraints.txt: `make constraints`.

They are those in this environment of what the package needs on a cluster, and of what that needs.
Left out are the parts of CUDA, of which torch names the exact versions itself and other platforms
have none.
"""

import platform
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

if sys.version_info < (3, 11):
    sys.exit("needs Python 3.11 or newer, to read pyproject.toml")
import tomllib

CUDA = ("nvidia-", "cuda-", "triton")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")  # that the package supports
HEAD = """\
# The versions of a cluster, so that every node has the same: `pip install -c constraints.txt ...`.
# Made by `make constraints` with Python {python}, from the environment that the tests pass in.
"""


def main() -> None:
    """Print the pins, sorted by name."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())[
        "project"
    ]
    wanted = [*project["dependencies"], "ray[default]"]
    for extra in ("optuna", "cluster"):
        wanted += project["optional-dependencies"].get(extra, [])
    pins: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    todo = [(Requirement(each), "") for each in wanted]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found = distribution(name)
        pins[name] = f"{name}=={found.version.split('+')[0]}{_marker(found.metadata)}"
        for each in ("", *requirement.extras):
            if (name, each) not in done:
                done.add((name, each))
                todo += [(Requirement(line), each) for line in found.requires or ()]
    print(HEAD.format(python=platform.python_version()), end="")
    print(*(pins[name] for name in sorted(pins) if not name.startswith(CUDA)), sep="\n")


def _marker(metadata: object) -> str:
    """Where a version exists only for newer Pythons, those; others take what they find."""
    needs = SpecifierSet(metadata["Requires-Python"] or "")  # type: ignore[index]
    oldest = next(python for python in PYTHONS if python in needs)
    return "" if oldest == PYTHONS[0] else f'; python_version >= "{oldest}"'


if __name__ == "__main__":
    main()
