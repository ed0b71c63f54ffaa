"""`python -m fedsmu_ray.ui [URI]`: MLflow's UI, with the link to the charts of a sweep."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from urllib.parse import urlsplit

from fedsmu_ray import cli, environment

EXAMPLES = """examples:
  python -m fedsmu_ray.ui                          the runs in ./mlflow.db
  python -m fedsmu_ray.ui sqlite:////data/mlflow.db --port 5001
  python -m fedsmu_ray.ui http://server:5000       only print the link: a server is running
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command until it is interrupted; returns its exit code."""
    parser = cli.Parser(
        "ui", "Start MLflow's UI, and print the link to the charts of the latest sweep.", EXAMPLES
    )
    parser.add_argument(
        "uri",
        nargs="?",
        metavar="URI",
        help="as tracking.uri (default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)",
    )
    parser.add_argument(
        "--experiment",
        default=environment.mlflow_experiment(),
        help="its name (default: $MLFLOW_EXPERIMENT_NAME, else fedsmu)",
    )
    parser.add_argument("--port", type=int, help="of the server (default: 5000, if it is free)")
    options = parser.parse_args(argv)
    return cli.main(lambda: _show(options))


def _show(options: argparse.Namespace) -> int:
    from fedsmu_ray.tracking import mlflow_ui

    uri = options.uri or environment.mlflow_uri()
    view = mlflow_ui.latest_view(uri, options.experiment)
    if uri.startswith("http"):
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]  # without a password
        print(f"{parts._replace(netloc=host).geturl().rstrip('/')}/{view}")
        return 0
    with mlflow_ui.server(uri, options.port) as (process, url):
        print(f"{url}/{view}\nCtrl-C ends the server", flush=True)
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0


def script() -> None:
    """Run the installed script of this command."""
    cli.script(main)


if __name__ == "__main__":
    cli.run(main)
