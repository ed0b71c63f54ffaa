"""`fedsmu methods [NAME]`: the federated methods, or one of them with its options."""

from __future__ import annotations

from collections.abc import Sequence

from fedsmu_ray import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = cli.Parser(
        "methods",
        "List the federated methods with their bits per parameter, or show one with its paper and "
        "options. A method of your own: see docs/your-own-method.md.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a method, as in algorithm.name")
    options = parser.parse_args(argv)
    return cli.main(lambda: _show(options.name))


def _show(name: str | None) -> int:
    from fedsmu_ray import plugins
    from fedsmu_ray.algorithms.registry import METHODS
    from fedsmu_ray.config.reference import method_text, methods_list

    if name is not None:
        plugins.lookup("NAME", name, METHODS)
    print(methods_list() if name is None else method_text(name), end="")
    return 0
