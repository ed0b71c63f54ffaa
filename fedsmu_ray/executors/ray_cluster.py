"""The Ray cluster that an experiment or a sweep runs on, and what it has room for."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from fedsmu_ray.config.schema import ComputeConfig
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ExecutionError

log = logging.getLogger(__name__)


@contextmanager
def cluster(address: str | None = None) -> Iterator[str]:
    """Join the cluster at `address` ("auto", host:port), or that of $RAY_ADDRESS, or start one on this machine, and leave
    (or end) it afterwards. In a process that has joined one already, that one is used and kept.

    Yields a line that says which it is, with its resources.
    """
    own = not ray.is_initialized()
    if own:
        _silence()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            # "local", not None: that would also join what a program that has ended says it left behind on this machine.
            there = address or os.environ.get("RAY_ADDRESS") or "local"
            ray.init(
                address=there,
                include_dashboard=False if there == "local" else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ExecutionError(
                f"--address {address}: cannot join a Ray cluster there ({error}); check the address, that "
                "~/.ray/auth_token is the cluster's, and that RAY_AUTH_MODE=token is set"
            ) from None
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if callable(handler):  # Ray has put its own in its place, which prints stacks
                    signal.signal(number, handler)
    try:
        joined = address or os.environ.get("RAY_ADDRESS")
        resources = ray.cluster_resources()
        have = f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
        yield (
            f"Ray cluster {joined} ({have})" if joined else f"a local Ray on this machine ({have})"
        )
    finally:
        if own:
            ray.shutdown()


def _silence() -> None:
    """Ray tells of every lost process in a paragraph on stdout, which is for results. What matters of it is logged here."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda data, ignore_prefix=False: log.debug(
            "ray: %s", " ".join(data["lines"])
        )


def store(dataset: Dataset) -> list[Any]:
    """The data set in the object store: a reference in a list, which Ray hands on as it is."""
    return [ray.put(dataset)]


def fitting_actors(compute: ComputeConfig) -> int:
    """How many client actors the cluster as it is has resources for; raises ExecutionError if not even one."""
    have = ray.cluster_resources()
    fit = have.get("CPU", 0) // compute.cpus_per_actor
    if compute.gpus_per_actor:
        gpus = have.get("GPU", 0)
        # A fraction must fit on one card: five of 0.4 do not fit on two.
        fit = min(
            fit,
            gpus // compute.gpus_per_actor
            if compute.gpus_per_actor >= 1
            else gpus * (1 // compute.gpus_per_actor),
        )
    if fit < 1:
        raise ExecutionError(
            f"the cluster has {free()} and one client actor needs {compute.cpus_per_actor:g} CPUs and "
            f"{compute.gpus_per_actor:g} GPUs; lower compute.cpus_per_actor or compute.gpus_per_actor"
        )
    return int(fit)


def check_actors(compute: ComputeConfig, address: str | None) -> None:
    """Refuse more client actors than this machine can ever place; a cluster that was joined may still grow."""
    if (
        address is None
        and "RAY_ADDRESS" not in os.environ
        and (compute.actors or 1) > (fit := fitting_actors(compute))
    ):
        raise ExecutionError(
            f"compute.actors = {compute.actors}: this machine has room for {fit} with "
            f"{compute.cpus_per_actor:g} CPUs and {compute.gpus_per_actor:g} GPUs each; lower compute.actors "
            "or compute.cpus_per_actor (0.5 lets two share a core)"
        )


def free() -> str:
    have = ray.available_resources()
    return f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs"
