"""What the commands share: arguments, error messages, exit codes.

Nothing heavy is imported, so --help is fast.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from fedsmu_ray.errors import ConfigError, ExperimentError
from fedsmu_ray.files.secrets import cut_text
from fedsmu_ray.files.valid_json import to_json

EXIT_FAILURE = 1
EXIT_USAGE = 2  # a configuration or argument that cannot be used
EXIT_INTERRUPTED = 130


def parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """The argument parser of a command, with the arguments that train and tune share."""
    made = argparse.ArgumentParser(
        prog=f"python -m fedsmu_ray.{prog}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "arguments",
        nargs="*",
        metavar="[FILE] key=value",
        help="a YAML recipe (default: the quickstart), then dotted keys to override, as in "
        "local.lr=0.05",
    )
    made.add_argument(
        "--address",
        help='Ray cluster to join: "auto" on a node of it, or host:port; default: $RAY_ADDRESS, '
        "else Ray is started on this machine",
    )
    made.add_argument(
        "--json",
        action="store_true",
        help="print the results as one JSON object on the last line of stdout",
    )
    made.add_argument("--quiet", action="store_true", help="do not show progress")
    return made


def split(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """FILE (if the first argument is not key=value) and the overrides."""
    if arguments and "=" not in arguments[0]:
        return arguments[0], list(arguments[1:])
    return None, list(arguments)


def main(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; errors that a user can fix become one message."""
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    # Shells start background jobs with SIGINT ignored, and schedulers end jobs with SIGTERM.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ExperimentError as error:
        print(f"error: {cut_text(str(error))}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILURE
    except OSError as error:  # such as a full disk, or a folder without write permission
        if error.errno is None:  # raised by a library, not by the operating system
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}", file=sys.stderr)
        return EXIT_FAILURE


def _interrupt(signum: int, frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
    raise KeyboardInterrupt


def print_json(value: Any) -> None:
    """Print a value as one line of JSON, the last line of stdout; null stands for NaN."""
    print(to_json(value), flush=True)


def leave(code: int) -> None:
    """Flush the output and exit at once: tearing down torch, Ray and MLflow would take seconds."""
    with contextlib.suppress(BrokenPipeError):  # the reader of our output has closed it
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
