"""`fedsmu COMMAND ...`, or `python -m fedsmu_ray COMMAND ...`: the commands of this package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from fedsmu_ray import cli

COMMANDS = {
    "train": ("fedsmu_ray.train", "one experiment"),
    "tune": ("fedsmu_ray.tune", "a sweep"),
    "data": ("fedsmu_ray.data", "the split of the data over the clients"),
    "conformance": ("fedsmu_ray.conformance.__main__", "check a method of your own"),
    "cluster": ("fedsmu_ray.cluster.__main__", "experiments on a Ray cluster"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        code: int = importlib.import_module(COMMANDS[name][0]).main(rest)
        return code
    lines = [f"  {name:12} {what}" for name, (_, what) in COMMANDS.items()]
    usage = "\n".join(
        ["usage: fedsmu COMMAND ...", "", *lines, "", "`fedsmu COMMAND --help` says more."]
    )
    if name in ("-h", "--help"):
        print(usage)
        return 0
    print(f"error: {name} is not a command\n{usage}", file=sys.stderr)
    return cli.EXIT_USAGE


def script() -> None:
    """Run the command as all of this process."""
    sys.path.insert(0, "")  # as `python -m` does: modules of `import:` are in the working directory
    cli.run(main)


if __name__ == "__main__":
    script()
