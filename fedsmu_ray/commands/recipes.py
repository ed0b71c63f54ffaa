"""`fedsmu recipes ls | show NAME | cp NAME [FILE]`: the recipes of this package."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fedsmu_ray import cli
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files import recipes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = cli.Parser(
        "recipes",
        "The recipes that come with this package. `fedsmu tune NAME` runs one; `cp` makes a copy "
        "to change.",
    )
    kind = argparse.ArgumentParser
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=kind)
    commands.add_parser("ls", help="list them (the default)")
    commands.add_parser("show", help="print one").add_argument("name", metavar="NAME")
    cp = commands.add_parser("cp", help="copy one to FILE (default: ./NAME.yaml)")
    cp.add_argument("name", metavar="NAME")
    cp.add_argument("file", nargs="?", metavar="FILE")
    options = parser.parse_args(argv)
    if options.command == "show":
        return cli.main(lambda: _show(options.name))
    if options.command == "cp":
        return cli.main(lambda: _copy(options.name, options.file))
    return cli.main(_list)


def _list() -> int:
    for name in recipes.names():
        print(f"{name:16} {recipes.first_sentence(recipes.path(name))}")
    return 0


def _show(name: str) -> int:
    print(recipes.path(name).read_text(encoding="utf-8"), end="")
    return 0


def _copy(name: str, file: str | None) -> int:
    content = recipes.path(name).read_bytes()
    target = Path(file or f"{name}.yaml")
    if target.is_dir():
        target = target / f"{name}.yaml"
    try:
        with open(target, "xb") as made:
            made.write(content)
    except FileExistsError:
        raise ConfigError([f"{target}: exists and is not overwritten; name another file"]) from None
    print(f"{target}; run it with: fedsmu tune {target}")
    return 0
