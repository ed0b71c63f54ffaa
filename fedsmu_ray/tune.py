"""`python -m fedsmu_ray.tune [FILE] [key=value ...]`: a sweep."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fedsmu_ray import cli, environment

EXAMPLES = """examples:
  python -m fedsmu_ray.tune                         the quickstart: FedSMU against FedAvg on digits
  python -m fedsmu_ray.tune my.yaml tune.search=optuna tune.samples=30 tune.scheduler=asha
  python -m fedsmu_ray.tune 'tune.space.local.lr={loguniform: [0.001, 1]}' tune.samples=8
  python -m fedsmu_ray.tune --resume                resume the latest sweep of this name
  python -m fedsmu_ray.tune my.yaml --profile       where a round's time goes in each trial
  python -m fedsmu_ray.tune my.yaml --address auto  on a node of a running cluster
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 1 if a trial failed or none has a score."""
    parser = cli.parser(
        "tune", "Sweep federated experiments with Ray Tune and compare them in MLflow.", EXAMPLES
    )
    cli.add_resume(parser, "an interrupted sweep", "tune.storage")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="print where the time of a round goes in the slowest trials, and write a trace of "
        "each trial into the folder of the sweep",
    )
    options = parser.parse(argv)
    cli.settle(options, "resume")
    environment.use_cluster_token(options.address)
    return cli.main(lambda: _tune(options), options.traceback)


def _tune(options: argparse.Namespace) -> int:
    from fedsmu_ray.config.loading import load_config
    from fedsmu_ray.files.remote import place
    from fedsmu_ray.files.run_folders import SWEEP, find_folder

    file, overrides = cli.split(options.arguments)
    if options.resume and not file:
        config = load_config(find_folder(SWEEP, options.resume) / SWEEP.file, overrides)
    else:
        config = load_config(file, overrides)

    # Importing these takes seconds, so a wrong configuration is reported before.
    from fedsmu_ray.display.profile import print_trials
    from fedsmu_ray.display.results import print_sweep
    from fedsmu_ray.sweeps.folder import traces
    from fedsmu_ray.sweeps.sweep import sweep

    outcome = sweep(config, options.address, options.resume, not options.quiet, options.profile)
    print_sweep(outcome)
    if options.profile:
        print_trials(traces(place(outcome["folder"])))
    if options.json:
        cli.print_json(outcome)
    return 0 if outcome["best"] and not outcome["failed"] else 1


def script() -> None:
    """Run the installed script of this command."""
    cli.script(main)


if __name__ == "__main__":
    cli.run(main)
