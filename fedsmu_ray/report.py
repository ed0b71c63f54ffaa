"""`python -m fedsmu_ray.report [FOLDER]`: figures and tables of a sweep."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedsmu_ray import cli, environment

if TYPE_CHECKING:
    from fedsmu_ray.files.remote import Place
    from fedsmu_ray.reports.data import Report

STORAGE = "fedsmu_runs"  # the default of `tune.storage`
EXAMPLES = """examples:
  python -m fedsmu_ray.report                                the latest sweep in ./fedsmu_runs
  python -m fedsmu_ray.report fedsmu_runs/SWEEP --target 0.9 --target 0.95
  python -m fedsmu_ray.report --run ID -o figures            the run of a sweep in MLflow
  python -m fedsmu_ray.report --experiment fedsmu -o all     all its runs, of all sweeps and train
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(argv)
    return cli.main(lambda: _report(options))


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "report",
        "Write report.html, which compares the settings of a sweep, and its figures (PDF, PNG) and "
        "tables (CSV, Markdown, LaTeX).",
        EXAMPLES,
    )
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help=f"of a sweep, or its URI; it may still run (default: the latest one in {STORAGE})",
    )
    given.add_argument("--run", metavar="ID", help="the run of a sweep in MLflow, or a single run")
    given.add_argument("--experiment", metavar="NAME", help="all runs of an experiment in MLflow")
    parser.add_argument(
        "--uri",
        help="where MLflow has the runs, as tracking.uri (default: $MLFLOW_TRACKING_URI, else "
        "sqlite:///mlflow.db)",
    )
    parser.add_argument(
        "--target",
        type=_share,
        action="append",
        default=[],
        metavar="ACCURACY",
        help="accuracy (0 to 1) to which bytes and rounds are told; may be repeated (default: as "
        "in the sweep)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="folder for report.html and report/ (default: that of the sweep; of runs in MLflow: "
        "./report-NAME)",
    )
    return parser


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if 0 < share <= 1:
        return share
    raise argparse.ArgumentTypeError(f"{text}: expected a share, such as 0.95 for 95 %")


def _report(options: argparse.Namespace) -> int:
    from fedsmu_ray.errors import ConfigError
    from fedsmu_ray.reports.writing import write_report

    report, folder = _read(options)
    try:
        file, _ = write_report(report, folder)
    except ImportError as error:
        raise ConfigError([f"{error}; pip install plotly matplotlib"]) from None
    print(f"{file}\n{file.parent / 'report'}: figures (PDF, PNG) and tables (CSV, Markdown, LaTeX)")
    return 0


def _read(options: argparse.Namespace) -> tuple[Report, Place]:
    """The report, and the folder that it is written into."""
    import re

    from fedsmu_ray.files.remote import place
    from fedsmu_ray.files.run_folders import SWEEP, given_folder, latest_folder
    from fedsmu_ray.sweeps import reporting
    from fedsmu_ray.tracking.registry import tracked_experiment, tracked_sweep

    own = place(options.output) if options.output else None
    uri = options.uri or environment.mlflow_uri()
    if options.run:
        parent, runs = tracked_sweep(uri, options.run)
        name = parent.name
        is_sweep = bool(runs)
        report = reporting.of_runs(
            name, uri, runs or [parent], parent if is_sweep else None, options.target
        )
    elif options.experiment:
        name = options.experiment
        report = reporting.of_runs(name, uri, tracked_experiment(uri, name), None, options.target)
    else:
        found = given_folder(SWEEP, options.folder) if options.folder else None
        folder = found or latest_folder(SWEEP, STORAGE)
        return reporting.of_folder(folder, options.target), own or folder
    return report, own or place(f"report-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}")


def script() -> None:
    """Run the installed script of this command."""
    cli.script(main)


if __name__ == "__main__":
    cli.run(main)
