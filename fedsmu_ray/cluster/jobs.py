"""Ray jobs: a command of this package that runs on the head and outlives whoever submitted it."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsmu_ray import environment
from fedsmu_ray.cluster.launcher import Cluster
from fedsmu_ray.errors import ConfigError, ExecutionError
from fedsmu_ray.files import recipes

# What is not sent along with the working directory, besides what .gitignore names.
EXCLUDES = [
    "mlflow.db*",
    "mlruns/",
    "mlartifacts/",
    "fedsmu_runs/",
    "fedsmu_results/",
    "*.egg-info/",
]
RECONNECT_S = 5.0
STOP_WAIT_S = 30  # for a job to end in order
EXIT_FAILURE, EXIT_STOPPED = 1, 130

_PACKAGE = Path(__file__).parent.parent


def results_of(job: str) -> Path:
    """The folder of a job's results; on the head only."""
    return environment.cluster_results() / _relative_results(job)


def _relative_results(job: str) -> str:
    return f"jobs/{job}"


def submit(cluster: Cluster, command: str, arguments: Sequence[str], resume: str | None) -> str:
    """Submit `train` or `tune` with the working directory; returns the name of the job.

    arguments: the recipe and overrides. resume: an earlier job, whose results are continued.
    """
    job = f"{_name(arguments)}-{time.strftime('%Y%m%d-%H%M%S')}"
    owner = resume or job
    key = "tune.storage" if command == "tune" else "checkpoint.folder"
    line = [
        "python",
        "-m",
        f"fedsmu_ray.{command}",
        *arguments,
        f"{key}={_relative_results(owner)}",
    ]
    if resume:
        line.append("--resume")
    with cluster.tunnel() as port:
        _client(port).submit_job(
            entrypoint=shlex.join(line),
            submission_id=job,
            runtime_env=_runtime_env(),
            metadata={"fedsmu": command, "results": owner},
        )
    return job


def _name(arguments: Sequence[str]) -> str:
    return re.sub(r"\W+", "-", Path(arguments[0]).stem)


def check_recipe(path: str) -> None:
    """Raise ConfigError unless the recipe is in the working directory, which is what is sent.

    A recipe by its name goes along with this package, or is in the working directory's.
    """
    if path in recipes.names() and not Path(path).exists():
        if _is_checkout() or recipes.path(path).is_relative_to(_PACKAGE):
            return
        cure = f"copy it here: fedsmu recipes cp {path}"
        raise ConfigError([f"{path}: a recipe of a checkout that is not sent from here; {cure}"])
    recipe = Path(path)
    if not recipe.is_file():
        raise ConfigError([f"{recipe}: no such file"])
    if recipe.is_absolute() or ".." in recipe.parts:
        raise ConfigError(
            [f"{recipe}: lies outside of the working directory, which is what is sent; go there"]
        )


def _runtime_env() -> dict[str, Any]:
    """The working directory, which Ray sends if its content is not yet on the cluster.

    It has the recipe and the modules of `import:`; this package goes along if it is not there.
    """
    runtime_env: dict[str, Any] = {
        "working_dir": ".",
        "excludes": EXCLUDES,
        "env_vars": {
            "PYTHONUNBUFFERED": "1",
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        },
    }
    if not _is_checkout():
        runtime_env["py_modules"] = [str(_PACKAGE)]
    return runtime_env


def _is_checkout() -> bool:
    """Whether the working directory has this package."""
    return Path("fedsmu_ray/__init__.py").is_file()


def latest(cluster: Cluster) -> str:
    """The name of the job that was submitted last; raises ExecutionError if there is none."""
    with cluster.tunnel() as port:
        own = [job for job in _client(port).list_jobs() if "fedsmu" in (job.metadata or {})]
    if not own:
        raise ExecutionError(f"no job on the cluster of {cluster.file}: start one with `run`")
    return str(max(own, key=lambda job: job.start_time).submission_id)


def stop(cluster: Cluster, job: str) -> None:
    """End a job in order: its runs become KILLED."""
    with cluster.tunnel() as port:
        client = _client(port)
        _info(client, job)
        client.stop_job(job)


def results_owner(cluster: Cluster, job: str) -> str:
    """The job whose folder has a job's results: itself, or the one that it resumes."""
    with cluster.tunnel() as port:
        return str((_info(_client(port), job).metadata or {}).get("results", job))


def follow(cluster: Cluster, job: str) -> int:
    """Print the log of a job until it ends, however often the connection is lost.

    Returns its exit code.
    """
    printed, told = 0, False
    while True:
        try:
            with cluster.tunnel() as port:
                client = _client(port)
                info = _info(client, job)
                if told:
                    print("connected again", file=sys.stderr, flush=True)
                    told = False
                printed = asyncio.run(_print_log(client, job, printed))
                info = _info(client, job)
            if info.status.is_terminal():
                return _exit_code(info)
        except _Disconnected as lost:
            printed = lost.printed
        except (OSError, ExecutionError) as error:
            if isinstance(error, UnknownJobError):
                raise
        if not told:
            print(
                "the connection to the head is lost; connecting again (the job goes on)",
                file=sys.stderr,
                flush=True,
            )
            told = True
        time.sleep(RECONNECT_S)


class UnknownJobError(ExecutionError):
    """The cluster has no such job."""


class _Disconnected(Exception):
    def __init__(self, printed: int) -> None:
        self.printed = printed


async def _print_log(client: Any, job: str, printed: int) -> int:
    """Print a job's log from character `printed` on; returns how many it has been in all."""
    import aiohttp

    seen = 0
    try:
        async for text in client.tail_job_logs(job):
            seen += len(text)
            if seen > printed:
                sys.stdout.write(text[printed - seen :])
                sys.stdout.flush()
                printed = seen
    except (OSError, RuntimeError, aiohttp.ClientError):
        raise _Disconnected(printed) from None
    return printed


def _exit_code(info: Any) -> int:
    if info.status == "STOPPED":
        print("the job was stopped", file=sys.stderr)
        return EXIT_STOPPED
    if info.status == "FAILED":
        code = info.driver_exit_code
        if code is None:
            print(f"the job failed: {info.message}", file=sys.stderr)
        return code or EXIT_FAILURE
    return 0


def _info(client: Any, job: str) -> Any:
    try:
        return client.get_job_info(job)
    except RuntimeError as error:
        if "404" not in str(error):
            raise ExecutionError(f"the head does not answer ({error})") from error
        raise UnknownJobError(
            f"{job}: the cluster has no such job; it may have been restarted since"
        ) from error


def _client(port: int) -> Any:
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    logging.disable(logging.INFO)  # what is uploaded, and when: loggers with levels of their own
    try:
        return JobSubmissionClient(f"http://127.0.0.1:{port}")
    except RayError as error:  # its message says what is wrong with the token
        raise ConfigError([str(error)]) from error
