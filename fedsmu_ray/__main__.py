"""`fedsmu COMMAND ...`, or `python -m fedsmu_ray COMMAND ...`: the commands of this package."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from fedsmu_ray import __version__, cli
from fedsmu_ray.commands import COMMANDS

EXAMPLES = """examples:
  fedsmu tune quickstart                     FedSMU against FedAvg on digits, three seeds
  fedsmu train algorithm.name=fedavg local.lr=0.05
  fedsmu recipes cp mnist && fedsmu tune mnist.yaml federation.rounds=50
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        code: int = importlib.import_module(COMMANDS[name][0]).main(rest)
        return code
    if name in ("-h", "--help", "help"):
        print(_overview(), end="")
        return 0
    if name in ("-V", "--version"):
        print(f"fedsmu_ray {__version__}")
        return 0
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    print(f"error: {name} is not a command{meant}\n\n{_overview()}", end="", file=sys.stderr)
    return cli.EXIT_USAGE


def _overview() -> str:
    lines = [f"  {name:12} {what}" for name, (_, what) in COMMANDS.items()]
    lines += ["", "fedsmu COMMAND --help says more; fedsmu --version", "", EXAMPLES]
    return "\n".join(["usage: fedsmu COMMAND ...", "", *lines])


def script() -> None:
    """Run the installed script."""
    cli.script(main)


if __name__ == "__main__":
    cli.run(main)
