"""`python -m fedsmu_ray.cluster COMMAND CLUSTER.yaml ...`: experiments on a Ray cluster."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedsmu_ray import cli, environment

if TYPE_CHECKING:
    from fedsmu_ray.cluster.launcher import Cluster

OVERVIEW = """usage: fedsmu cluster COMMAND CLUSTER.yaml ...

Run experiments on the Ray cluster that CLUSTER.yaml, a file of `ray up`, describes.

  run CLUSTER.yaml RECIPE [key=value ...]   bring the cluster up, or join it; run a sweep there,
                                            print its log and fetch its results. The working
                                            directory is sent along
  follow CLUSTER.yaml [JOB]                 print the log of a job (default: the latest)
  fetch CLUSTER.yaml [JOB]                  copy the results of a job to ./fedsmu_results/JOB
  stop CLUSTER.yaml [JOB]                   end a job in order
  ui CLUSTER.yaml                           MLflow of the cluster in a browser of this machine
  down CLUSTER.yaml                         end MLflow and Ray on all nodes, and nodes of a cloud
  mlflow                                    on the head: start MLflow's server unless it runs
  results JOB                               on the head: print where the results of a job are
  stop-workers                              on the head: end Ray on the others when it ends there

examples:
  fedsmu cluster run clusters/local.yaml tune_configs/quickstart.yaml
  fedsmu cluster run clusters/local.yaml my.yaml --train local.lr=0.05       one experiment
  fedsmu cluster run clusters/local.yaml my.yaml --resume JOB                continue a job
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, for `run` and `follow` that of the job."""
    command, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(OVERVIEW, end="")
        return 0
    if command not in COMMANDS:
        print(f"error: {command} is none of {', '.join(COMMANDS)}", file=sys.stderr)
        return cli.EXIT_USAGE
    options = _parser(command).parse_intermixed_args(rest)
    return cli.main(lambda: COMMANDS[command](options))


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{cli.program('cluster')} {command}")
    if command == "stop-workers":
        return parser
    if command == "mlflow":
        parser.add_argument("--stop", action="store_true", help="end it instead")
        parser.add_argument("--password", action="store_true", help="print its password only")
        return parser
    if command == "results":
        parser.add_argument("job", metavar="JOB")
        return parser
    parser.add_argument("cluster", metavar="CLUSTER.yaml", help="a cluster file of `ray up`")
    if command in ("follow", "fetch", "stop"):
        parser.add_argument("job", nargs="?", metavar="JOB", help="default: the latest")
    if command == "run":
        what = "YAML file in the working directory, or the name of a recipe of the package"
        parser.add_argument("recipe", metavar="RECIPE", help=what)
        parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for `tune`")
        parser.add_argument("--train", action="store_true", help="one experiment, not a sweep")
        parser.add_argument("--resume", metavar="JOB", help="continue the results of a job")
        parser.add_argument("--detach", action="store_true", help="submit, and do not follow")
    return parser


def _run(options: argparse.Namespace) -> int:
    from fedsmu_ray.cluster import jobs

    cluster = _cluster(options)
    jobs.check_recipe(options.recipe)
    cluster.bring_up()
    print(cluster.on_head(f"{ON_HEAD} mlflow"), flush=True)
    command = "train" if options.train else "tune"
    arguments = [options.recipe, *options.overrides]
    job = jobs.submit(cluster, command, arguments, options.resume)
    print(f"job {job}: it goes on if this machine leaves", flush=True)
    return 0 if options.detach else _follow_and_fetch(cluster, job)


def _follow(options: argparse.Namespace) -> int:
    cluster = _cluster(options)
    return _follow_and_fetch(cluster, _job(cluster, options))


def _follow_and_fetch(cluster: Cluster, job: str) -> int:
    from fedsmu_ray.cluster import jobs

    try:
        code = jobs.follow(cluster, job)
    except KeyboardInterrupt:
        print(
            f"\nnot following any more; the job goes on\n"
            f"  fedsmu cluster follow {cluster.file} {job}    its log again, then its results\n"
            f"  fedsmu cluster stop {cluster.file} {job}      end it",
            file=sys.stderr,
        )
        return cli.EXIT_INTERRUPTED
    with contextlib.suppress(BrokenPipeError):
        _fetch_results(cluster, job)
        print(f"in MLflow: fedsmu cluster ui {cluster.file}", flush=True)
    return code


def _fetch(options: argparse.Namespace) -> int:
    cluster = _cluster(options)
    _fetch_results(cluster, _job(cluster, options))
    return 0


def _fetch_results(cluster: Cluster, job: str) -> None:
    from fedsmu_ray.cluster import jobs

    owner = jobs.results_owner(cluster, job)
    source = cluster.on_head(f"{ON_HEAD} results {shlex.quote(owner)}")
    if source == NO_RESULTS:
        print(source, flush=True)
        return
    target = Path("fedsmu_results") / owner
    cluster.fetch(source, target)
    print(f"results: {target}/", flush=True)


def _stop(options: argparse.Namespace) -> int:
    from fedsmu_ray.cluster import jobs

    cluster = _cluster(options)
    job = _job(cluster, options)
    jobs.stop(cluster, job)
    print(f"{job}: ends; `fedsmu cluster follow {cluster.file} {job}` shows how")
    return 0


def _ui(options: argparse.Namespace) -> int:
    import signal

    from fedsmu_ray.cluster import mlflow_service
    from fedsmu_ray.tracking.mlflow_ui import PORT, latest_view

    cluster = _cluster(options)
    password = cluster.on_head(f"{ON_HEAD} mlflow --password")
    user = mlflow_service.USER
    with cluster.tunnel(PORT) as port:
        view = latest_view(f"http://{user}:{password}@127.0.0.1:{port}", "fedsmu")
        print(
            f"http://127.0.0.1:{port}/{view}  user {user}, password {password}; Ctrl-C closes the "
            "tunnel",
            flush=True,
        )
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


def _down(options: argparse.Namespace) -> int:
    _cluster(options).take_down()
    return 0


def _mlflow(options: argparse.Namespace) -> int:
    from fedsmu_ray.cluster import mlflow_service

    if options.stop:
        mlflow_service.stop()
    else:
        where = mlflow_service.start()
        print(mlflow_service.password() if options.password else where)
    return 0


def _results(options: argparse.Namespace) -> int:
    from fedsmu_ray.cluster import jobs

    folder = jobs.results_of(options.job)
    print(folder if folder.is_dir() else NO_RESULTS)
    return 0


def _stop_workers(options: argparse.Namespace) -> int:
    from fedsmu_ray.cluster import workers

    environment.use_cluster_token("auto")
    workers.stop_after_head()
    return 0


def _cluster(options: argparse.Namespace) -> Cluster:
    from fedsmu_ray.cluster.launcher import Cluster

    return Cluster(options.cluster)


def _job(cluster: Cluster, options: argparse.Namespace) -> str:
    from fedsmu_ray.cluster import jobs

    return options.job or jobs.latest(cluster)


ON_HEAD = "python -m fedsmu_ray.cluster"
NO_RESULTS = "no results: the job ended before it had any"
COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "follow": _follow,
    "fetch": _fetch,
    "stop": _stop,
    "ui": _ui,
    "down": _down,
    "mlflow": _mlflow,
    "results": _results,
    "stop-workers": _stop_workers,
}


def script() -> None:
    """Run the command as all of this process."""
    cli.run(main)


if __name__ == "__main__":
    script()
