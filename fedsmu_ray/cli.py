"""What the two commands share: arguments, clear errors, exit codes. Imports nothing heavy, so --help is instant."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

USAGE_ERROR, INTERRUPTED = 2, 130


def parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog=f"python -m fedsmu_ray.{prog}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "arguments",
        nargs="*",
        metavar="[FILE] key=value",
        help="a YAML recipe (default: the quickstart), then dotted keys to override, as in local.lr=0.05",
    )
    p.add_argument(
        "--address",
        help='Ray cluster to join: "auto" on a node of it, or host:port; default: $RAY_ADDRESS, '
        "else Ray is started on this machine",
    )
    p.add_argument(
        "--json",
        action="store_true",
        help="print the results as one JSON object on the last line of stdout",
    )
    p.add_argument("--quiet", action="store_true", help="no progress display")
    return p


def use_token(address: str | None) -> None:
    """Have Ray join a cluster with the token there is, which it does only when told so before it is imported."""
    if (address or "RAY_ADDRESS" in os.environ) and os.path.exists(
        os.path.expanduser("~/.ray/auth_token")
    ):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def split(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """FILE (if the first argument is not key=value) and the overrides."""
    if arguments and "=" not in arguments[0]:
        return arguments[0], list(arguments[1:])
    return None, list(arguments)


def main(command: Callable[[], int]) -> int:
    """Run a command; turns the errors a user can mend into one message and an exit code."""
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    # A shell starts background jobs with SIGINT ignored, and schedulers end jobs with SIGTERM: both are an interrupt.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    from fedsmu_ray.errors import ConfigError, ExperimentError

    try:
        return command()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except ExperimentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that may not be written: the system's words and the file are the story
        if error.errno is None:  # raised by a library, not the system
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}", file=sys.stderr)
        return 1


def _interrupt(signum: int, frame: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second one must not cut the cleaning up short
    raise KeyboardInterrupt


def print_json(value: Any) -> None:
    """The last line of stdout."""
    print(json.dumps(value, default=str), flush=True)


def leave(code: int) -> None:
    """Exit at once with everything flushed: nothing is left to do, and interpreters of torch, Ray and MLflow take
    seconds to tear down."""
    with contextlib.suppress(BrokenPipeError):  # whoever read our output has seen enough
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
