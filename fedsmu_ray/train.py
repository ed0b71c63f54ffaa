"""`python -m fedsmu_ray.train [FILE] [key=value ...]`: one experiment, without a sweep."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fedsmu_ray import cli, environment

EXAMPLES = """examples:
  python -m fedsmu_ray.train                                      the quickstart's FedSMU on digits
  python -m fedsmu_ray.train algorithm.name=fedavg local.lr=0.05  another method, another rate
  python -m fedsmu_ray.train fashion_mnist compute.gpus_per_actor=0.25  a recipe of the package
  python -m fedsmu_ray.train --list-methods                       what algorithm.name can be
  python -m fedsmu_ray.train checkpoint.every=10                  checkpoints; then --resume DIR
  python -m fedsmu_ray.train compute.executor=inline --json       in this process; results as JSON
  python -m fedsmu_ray.train --save digits.safetensors            the trained model, for load_model
  python -m fedsmu_ray.train --profile                            where a round's time goes
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = cli.parser(
        "train", "Train one federated experiment; its `tune` section is not used.", EXAMPLES
    )
    cli.add_resume(
        parser, "a run from its last checkpoint (see checkpoint.every)", "checkpoint.folder"
    )
    cli.add_profile(parser)
    parser.add_argument(
        "--save",
        metavar="FILE",
        help="write the trained model, with its configuration, to this safetensors file (a path or "
        "a URI); fedsmu_ray.load_model(FILE) gives the module",
    )
    parser.add_argument(
        "--list-methods",
        action="store_true",
        help="print the methods with their bits and options, and exit",
    )
    options = parser.parse(argv)
    cli.settle(options, "resume")
    cli.settle(options, "profile")
    environment.use_cluster_token(options.address)
    command = _list_methods if options.list_methods else lambda: _train(options)
    return cli.main(command, options.traceback)


def _list_methods() -> int:
    from fedsmu_ray.config.reference import methods_table

    print(methods_table(), end="")
    return 0


def _train(options: argparse.Namespace) -> int:
    from fedsmu_ray.config.loading import load_config
    from fedsmu_ray.display.profile import print_profile
    from fedsmu_ray.display.results import print_run
    from fedsmu_ray.experiment.model_file import check_writable
    from fedsmu_ray.experiment.run import run
    from fedsmu_ray.files.remote import place
    from fedsmu_ray.files.run_folders import RUN, find_folder

    file, overrides = cli.split(options.arguments)
    if options.resume and not file:
        config = load_config(find_folder(RUN, options.resume) / RUN.file, overrides)
    else:
        config = load_config(file, overrides)
    if options.save:
        check_writable(place(options.save))
    result = run(
        config, options.address, options.resume, not options.quiet, profile=options.profile
    )
    print_run(result.summary)
    if options.save:
        result.save(options.save)
    if result.profile and result.trace:
        print_profile(result.profile, result.trace)
    if options.json:
        cli.print_json(result.summary)
    return 0


def script() -> None:
    """Run the installed script of this command."""
    cli.script(main)


if __name__ == "__main__":
    cli.run(main)
