"""`fedsmu config [FILE] [key=value ...]`: the resolved configuration."""

from __future__ import annotations

from collections.abc import Sequence

from fedsmu_ray import cli

EXAMPLES = """examples:
  fedsmu config                              the quickstart, with the defaults of all keys
  fedsmu config my.yaml algorithm.name=ef21  the defaults of another method
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = cli.Parser(
        "config",
        "Print the resolved configuration as YAML: the recipe, the overrides and all defaults. It "
        "can be used as a recipe; passwords in it are replaced by ***.",
        EXAMPLES,
    )
    parser.add_recipe()
    options = parser.parse(argv)
    return cli.main(lambda: _print(*cli.split(options.arguments)))


def _print(file: str | None, overrides: Sequence[str]) -> int:
    from fedsmu_ray.config.loading import load_config

    print(load_config(file, overrides).to_yaml(), end="")
    return 0
