"""`python -m fedsmu_ray.conformance METHOD [key=value ...]`: check a federated method."""

from __future__ import annotations

from collections.abc import Sequence

from fedsmu_ray import cli

EXAMPLES = """examples:
  python -m fedsmu_ray.conformance import:my_method:MyMethod
  python -m fedsmu_ray.conformance import:my_method:MyMethod gamma=0.02 --lr 0.05 --accuracy 0.8
  python -m fedsmu_ray.conformance fedsmu gamma1=0.03
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    p = cli.Parser(
        "conformance",
        "Check a federated method on a small experiment: it trains, repeats bit for bit, uploads "
        "what its codecs state, and keeps the contract of a method.",
        EXAMPLES,
    )
    p.add_argument("method", help="name of a method, or import:<package.module>:<Class>")
    p.add_argument("options", nargs="*", metavar="option=value", help="options of the method")
    p.add_argument("--lr", type=float, default=0.1, help="local learning rate (default 0.1)")
    p.add_argument(
        "--accuracy",
        type=float,
        default=0.2,
        help="test accuracy to reach after 15 rounds (default 0.2; guessing gives 0.1)",
    )
    arguments = p.parse_intermixed_args(argv)

    def command() -> int:
        from fedsmu_ray.config.yaml_files import parse_overrides
        from fedsmu_ray.conformance import CHECKS, ConformanceError, Subject
        from fedsmu_ray.errors import ExperimentError

        options = parse_overrides(arguments.options)
        subject = Subject(arguments.method, options, arguments.lr, arguments.accuracy)
        print(f"{arguments.method}: {len(CHECKS)} checks on {subject.problem.dim} parameters")
        failed = 0
        for check in CHECKS:
            what = " ".join((check.__doc__ or check.__name__).split("\n\n")[0].split())
            try:
                check(subject)
                print(f"  ok      {what}", flush=True)
            except (ConformanceError, ExperimentError) as error:
                failed += 1
                print(f"  FAILED  {what}\n          {error}", flush=True)
        print(f"{len(CHECKS) - failed} passed, {failed} failed")
        return 1 if failed else 0

    return cli.main(command)


if __name__ == "__main__":
    cli.run(main)
