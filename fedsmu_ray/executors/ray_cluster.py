"""The Ray cluster that an experiment or a sweep runs on, and what it has room for."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError

from fedsmu_ray import environment, plugins
from fedsmu_ray.config.schema import Config
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.mapped import pages_released
from fedsmu_ray.errors import ConfigError, ExecutionError
from fedsmu_ray.executors.ray_address import cluster_address, origin
from fedsmu_ray.executors.ray_nodes import amount, nodes, watched_nodes
from fedsmu_ray.executors.ray_session import session_folder
from fedsmu_ray.executors.ray_watch import watched
from fedsmu_ray.files.secrets import cut_text
from fedsmu_ray.processes import guard

log = logging.getLogger(__name__)


@contextmanager
def cluster(address: str | None = None, config: Config | None = None) -> Iterator[str]:
    """Join a Ray cluster, or start one on this machine.

    address: "auto" or host:port; default: $RAY_ADDRESS. The cluster is left (or shut down)
    afterwards. A process that has joined a cluster already keeps it, and uses it here. Yields a
    phrase that says which cluster it is, with its resources. config: what is to run, so that user
    code in it that cannot be sent to other processes is a ConfigError before Ray starts. Raises
    ExecutionError for a cluster that cannot be joined, or that ends.
    """
    if config:
        _check_user_code(config)
    owned, joined = not ray.is_initialized(), environment.ray_address(address)
    if owned:
        _connect(address)
    try:
        ship_user_modules()
        # No other node can join a Ray that was started here.
        with watched(), nullcontext() if owned and not joined else watched_nodes():
            yield _describe(joined)
    finally:
        if owned:
            ray.shutdown()


def _connect(address: str | None) -> None:
    _silence_process_losses()
    _cut_secrets_of_the_command()
    found = cluster_address(address)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with _own_signal_handlers():
        if found is None:
            # Not None, which would also join a cluster whose program has ended without stopping it.
            ray.init("local", include_dashboard=False, _temp_dir=session_folder(), **options)
            return
        try:
            ray.init(found, **options)
        except (ConnectionError, ValueError, RuntimeError, RayError) as error:
            raise ExecutionError(
                f"{origin(address)}: cannot join a Ray cluster there ({error}); check the address, "
                "that ~/.ray/auth_token is the cluster's, and that RAY_AUTH_MODE=token is set"
            ) from None


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep our signal handlers where Ray starts, and SIGHUP from the processes of Ray.

    Ray's own handlers print stack traces or exit. Its processes share the terminal: closing it must
    not end them while the experiment ends in order.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in guard.SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which other processes inherit
    try:
        yield
    except SystemExit:  # Ray's handler of SIGTERM
        raise KeyboardInterrupt from None
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # not installed from Python
                signal.signal(number, handler)


def _describe(joined: str | None) -> str:
    has, count = amount(ray.cluster_resources()), len(nodes())
    if joined:
        return f"Ray cluster {joined} ({count} node{'s' * (count > 1)}, {has})"
    return f"a local Ray on this machine ({has})"


def _silence_process_losses() -> None:
    """Keep Ray's paragraphs about lost processes off stdout, which is for results.

    The executor logs these losses.
    """
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):

        def log_lines(data: Any, ignore_prefix: bool = False) -> None:
            log.debug("ray: %s", " ".join(data["lines"]))

        worker.print_to_stdstream = log_lines


def _cut_secrets_of_the_command() -> None:
    """Keep passwords out of the command line that Ray notes for whoever looks at its jobs."""
    from ray._private import utils

    if hasattr(utils, "get_entrypoint_name"):
        noted = utils.get_entrypoint_name
        utils.get_entrypoint_name = lambda: cut_text(noted())


def ship_user_modules() -> None:
    """Send the user's own modules (`import:`) along with what is sent to other processes.

    Classes and functions of these modules are pickled by value, so the file in the driver's working
    directory is enough on every node.
    """
    for module in plugins.user_modules():
        cloudpickle.register_pickle_by_value(module)


def _check_user_code(config: Config) -> None:
    """Raise ConfigError for a method or model that cannot be sent to other processes."""
    ship_user_modules()
    for section, name, part in (
        ("algorithm", config.method_name, config.algorithm),
        ("model", config.model_name, config.model),
    ):
        try:
            cloudpickle.dumps(part)
        except Exception as error:
            raise ConfigError(
                [
                    f"{section}.name = {name}: it cannot be sent to other processes "
                    f"({type(error).__name__}: {error}); create locks, open files, generators and "
                    "the like where they are used, not at the top of the module"
                ]
            ) from error


def store(dataset: Dataset) -> list[Any]:
    """The data set in the object store: a reference in a list, which Ray passes on as it is."""
    with pages_released(dataset.train_x, dataset.test_x):
        return [ray.put(dataset)]
