"""`python -m fedsmu_ray.tune [FILE] [key=value ...]`: a sweep, the main job."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fedsmu_ray import cli

EXAMPLES = """examples:
  python -m fedsmu_ray.tune                                            the quickstart: FedSMU against FedAvg on digits
  python -m fedsmu_ray.tune my.yaml tune.search=optuna tune.samples=30 tune.scheduler=asha
  python -m fedsmu_ray.tune 'tune.space.local.lr={loguniform: [0.001, 1]}' tune.samples=8
  python -m fedsmu_ray.tune --resume                                   go on with the latest sweep of this name
  python -m fedsmu_ray.tune my.yaml --address auto                     on a node of a running cluster
"""


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.parser(
        "tune", "Sweep federated experiments with Ray Tune and compare them in MLflow.", EXAMPLES
    )
    p.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="DIR",
        help="go on with an interrupted sweep; DIR: its folder "
        "(default: the latest of the recipe's name in tune.storage)",
    )
    options = p.parse_intermixed_args(argv)
    if options.resume and not os.path.isdir(
        options.resume
    ):  # `--resume FILE key=value`: the latest sweep of that recipe
        options.arguments, options.resume = [options.resume, *options.arguments], ""

    cli.use_token(options.address)

    def command() -> int:
        from fedsmu_ray.config.validation import load_config

        file, overrides = cli.split(options.arguments)
        if options.resume and not file:
            file = os.path.join(options.resume, "sweep.yaml")
        config = load_config(file, overrides)

        from fedsmu_ray.display.progress import print_sweep
        from fedsmu_ray.sweeps.sweep import (
            sweep,
        )  # takes seconds, which a mistake in the configuration need not cost

        outcome = sweep(config, options.address, resume=options.resume, display=not options.quiet)
        print_sweep(outcome)
        if options.json:
            cli.print_json(outcome)
        return 0 if outcome["trials"] and not outcome["failed"] else 1

    return cli.main(command)


if __name__ == "__main__":
    cli.leave(main())
