"""What the commands share: arguments, error messages, exit codes.

Nothing heavy is imported, so --help is fast.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import os
import shlex
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from fedsmu_ray.errors import ConfigError, ExperimentError
from fedsmu_ray.files.secrets import cut_text
from fedsmu_ray.files.valid_json import to_json
from fedsmu_ray.processes import guard

PACKAGE = Path(__file__).parent
KEYS = PACKAGE / "config" / "keys.txt"
EXIT_FAILURE = 1
EXIT_USAGE = 2  # a configuration or argument that cannot be used
EXIT_INTERRUPTED = 130


def program(command: str) -> str:
    """How a command was typed, such as `fedsmu train` or `python -m fedsmu_ray.train`."""
    typed = Path(sys.argv[0])
    if typed.stem == f"fedsmu-{command}":
        return typed.stem
    if typed.stem == "fedsmu":
        return f"fedsmu {command}"
    is_package = typed.name == "__main__.py" and typed.parent == PACKAGE
    return f"python -m fedsmu_ray{' ' if is_package else '.'}{command}"


def dotted_keys() -> list[str]:
    """Every dotted key of a configuration: from a file, as what declares them imports torch."""
    return KEYS.read_text(encoding="utf-8").split()


class Parser(argparse.ArgumentParser):
    """The argument parser of a command, which is called as it was typed.

    examples: as typed with `python -m fedsmu_ray.COMMAND`.
    """

    def __init__(self, command: str, description: str, examples: str = "") -> None:
        prog = program(command)
        super().__init__(
            prog=prog,
            description=description,
            epilog=examples.replace(f"python -m fedsmu_ray.{command}", prog),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """The options; ends the process for one that does not exist, with the key it may mean."""
        given = sys.argv[1:] if argv is None else list(argv)
        options, unknown = self.parse_known_intermixed_args(given)
        if unknown:
            flags = [option for option in unknown if option.startswith("-")] or unknown
            self.error("\n".join(_unknown_option(flag, given) for flag in flags))
        return options

    def add_recipe(self) -> None:
        """Add the recipe and the keys that override it."""
        self.add_argument(
            "arguments",
            nargs="*",
            metavar="[FILE] key=value",
            help="a YAML recipe, or the name of one that `fedsmu recipes` lists (default: "
            "quickstart), then dotted keys to override, as in local.lr=0.05",
        )


def _unknown_option(option: str, given: Sequence[str]) -> str:
    """The message for an option that does not exist; given: all arguments.

    Keys of a configuration are found by their last part, as in `--rounds 10` for federation.rounds.
    """
    flag, equals, value = option.partition("=")
    following = given[given.index(option) + 1 :][:1]
    if not equals and following and "=" not in following[0] and following[0][:2] != "--":
        option, value = f"{option} {following[0]}", following[0]
    name = flag.lstrip("-").replace("-", "_")
    last = {key: key.rpartition(".")[2] for key in dotted_keys()}
    close = difflib.get_close_matches(name, set(last.values()), n=1, cutoff=0.75)
    meant = [key for key in last if name in (key, last[key])]
    meant = meant or [key for key in last if last[key] in close]
    if not meant:
        return f"no option {option}; keys of the configuration are written as in local.lr=0.1"
    meant.sort(key=lambda key: key.startswith(("algorithm.", "model.")))  # of some methods only
    shown = " or ".join(shlex.quote(f"{key}={value or '...'}") for key in meant)
    return f"no option {option}; did you mean {shown}?"


def parser(command: str, description: str, examples: str) -> Parser:
    """The argument parser of a command, with the arguments that train and tune share."""
    made = Parser(command, description, examples)
    made.add_recipe()
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
    made.add_argument(
        "--traceback",
        action="store_true",
        help="show the whole traceback of an error, such as one in a model of your own",
    )
    return made


def add_resume(made: argparse.ArgumentParser, what: str, key: str) -> None:
    """Add `--resume [DIR]` to a parser: None without it, "" without DIR."""
    made.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="DIR",
        help=f"resume {what}; DIR: its folder, or URI of it (default: the latest of the recipe's "
        f"name in {key})",
    )


def add_profile(made: argparse.ArgumentParser) -> None:
    """Add `--profile [PATH]` to a parser: None without it, "" without PATH."""
    made.add_argument(
        "--profile",
        nargs="?",
        const="",
        metavar="PATH",
        help="print where the time of a round goes, and write a trace of it that "
        "https://ui.perfetto.dev and chrome://tracing open; PATH: a file (*.json), or a folder "
        "for it (default: ./profile-<name>-<time>.json)",
    )


def settle(options: argparse.Namespace, name: str) -> None:
    """Tell the optional value of an option from the arguments that may follow it.

    name: `resume` or `profile`. `--resume FILE` and `--resume key=value` give it no value.
    """
    given = getattr(options, name)
    if not given or os.path.isdir(given):
        return
    if "=" in given and "/" not in given.split("=")[0]:
        options.arguments = [*options.arguments, given]
    elif given.endswith((".yaml", ".yml")) and not split(options.arguments)[0]:
        options.arguments = [given, *options.arguments]
    else:
        return
    setattr(options, name, "")


def split(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """FILE (if the first argument is one, or is not key=value) and the overrides."""
    if arguments and ("=" not in arguments[0] or os.path.isfile(arguments[0])):
        return arguments[0], list(arguments[1:])
    return None, list(arguments)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command as all of this process, under the guard that kills it at the third interrupt.

    Exits at once: tearing down torch, Ray and MLflow would take seconds.
    """
    guard.start()
    code = main()
    with contextlib.suppress(BrokenPipeError):  # the reader of our output has closed it
        sys.stdout.flush()
        sys.stderr.flush()
    guard.stop()
    os._exit(code)


def script(main: Callable[[], int]) -> NoReturn:
    """Run a command as `python -m` does: modules of `import:` are in the working directory."""
    sys.path.insert(0, "")
    run(main)


def main(command: Callable[[], int], whole_traceback: bool = False) -> int:
    """Run a command and return its exit code; errors that a user can fix become one message.

    whole_traceback: print the traceback of such an error, and of all that caused it, before it.
    """
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    if threading.current_thread() is threading.main_thread():  # others cannot handle signals
        _handle_signals()
    try:
        return command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ExperimentError as error:
        if whole_traceback:
            print(cut_text(_all_of(error)), file=sys.stderr)
        print(f"error: {cut_text(str(error))}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILURE
    except OSError as error:  # such as a full disk, or a folder without write permission
        if error.errno is None:  # raised by a library, not by the operating system
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}", file=sys.stderr)
        return EXIT_FAILURE


def _all_of(error: BaseException) -> str:
    """The traceback of an error and of those before it, also where the message hides them."""
    before: BaseException | None = error
    while before:
        before.__suppress_context__ = False
        before = before.__cause__ or before.__context__
    return "".join(traceback.format_exception(error))


def _handle_signals() -> None:
    for number in guard.SIGNALS:
        # Shells start background jobs with SIGINT ignored; nohup means what it says.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    for number in guard.SIGNALS:
        signal.signal(number, _count)
    if signum == signal.SIGHUP:
        _leave_terminal()
    raise KeyboardInterrupt


def _count(signum: int, frame: FrameType | None) -> None:
    """A second signal must not interrupt the cleanup; the guard sees it, unlike with SIG_IGN."""


def _leave_terminal() -> None:
    """Discard further output to a terminal that is gone: writing there is an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        if stat.S_ISCHR(os.fstat(output).st_mode):
            os.dup2(nowhere, output)
    os.close(nowhere)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON, the last line of stdout; null stands for NaN."""
    print(to_json(value), flush=True)
