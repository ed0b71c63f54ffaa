"""Code that all commands share: errors, signals, arguments, JSON output."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedsmu_ray import cli
from fedsmu_ray.errors import ConfigError, ExecutionError
from fedsmu_ray.processes import guard


@pytest.fixture(autouse=True)
def handlers():
    """Restore the signal handlers that `cli.main` replaces."""
    before = {number: signal.getsignal(number) for number in guard.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    "error, code, words",
    [
        (ConfigError(["a = 1: x"]), 2, "error: the configuration has a problem:\n  - a = 1: x\n"),
        (ExecutionError("no GPU"), 1, "error: no GPU\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x"),
            1,
            "error: /data/x: No space left on device\n",
        ),
        (OSError(errno.EPIPE, os.strerror(errno.EPIPE)), 1, "error: Broken pipe\n"),
    ],
)
def test_errors_that_a_user_can_fix_are_one_message_and_an_exit_code(capsys, error, code, words):
    assert cli.main(raising(error)) == code
    out, err = capsys.readouterr()
    assert out == "" and err == words


def test_the_whole_traceback_is_shown_on_request(capsys):
    def command():
        try:
            {}["a secret: token=abcdef"]
        except KeyError:
            raise ConfigError(["a = 1: x"]) from None

    assert cli.main(command, whole_traceback=True) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):") and "KeyError: 'a secret" in err
    assert "abcdef" not in err and err.count("test_cli.py") >= 2
    assert err.endswith("error: the configuration has a problem:\n  - a = 1: x\n")


def test_a_command_runs_in_any_thread():
    """Python lets only the main thread handle signals."""
    codes = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(lambda: 0)))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.parametrize("error", [OSError("of a library"), ZeroDivisionError()])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)):
        cli.main(raising(error))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_and_a_second_one_does_not_stop_the_cleanup(number):
    steps = []

    def command():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)
            steps.append("cleanup")
        return 0

    assert cli.main(command) == cli.EXIT_INTERRUPTED and steps == ["cleanup"]


@pytest.mark.parametrize(
    "arguments, file, overrides",
    [
        ([], None, []),
        (["my.yaml", "a=1"], "my.yaml", ["a=1"]),
        (["a=1", "b=2"], None, ["a=1", "b=2"]),
    ],
)
def test_the_first_argument_may_be_a_file(arguments, file, overrides):
    assert cli.split(arguments) == (file, overrides)


def test_the_path_of_a_file_may_have_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1.yaml").touch()
    assert cli.split(["lr=0.1.yaml", "a=1"]) == ("lr=0.1.yaml", ["a=1"])


def test_overrides_and_options_may_be_mixed():
    parser = cli.parser("train", "what it does", "examples: none")
    options = parser.parse(["a.yaml", "--json", "x=1", "--address", "auto", "y=2"])
    assert options.arguments == ["a.yaml", "x=1", "y=2"]
    assert options.json and not options.quiet and options.address == "auto"


def test_results_are_one_line_of_json(capsys):
    cli.print_json({"a": [1, float("nan")], "path": os})
    out = capsys.readouterr().out
    assert out.startswith('{"a": [1, null], "path": "<module') and out.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, resume, rest",
    [
        (["my.yaml", "a=1"], None, ["my.yaml", "a=1"]),
        (["my.yaml", "--resume"], "", ["my.yaml"]),
        (["--resume", "my.yaml", "a=1"], "", ["my.yaml", "a=1"]),
        (["my.yaml", "--resume", "a=1", "b=2"], "", ["my.yaml", "b=2", "a=1"]),
        (["--resume", "runs/x", "a=1"], "runs/x", ["a=1"]),
        (["--resume", "runs/lr=0.1-x"], "runs/lr=0.1-x", []),
        (["my.yaml", "--resume", "other.yaml"], "other.yaml", ["my.yaml"]),
    ],
)
def test_resume_takes_a_folder_and_leaves_other_arguments(arguments, resume, rest):
    parser = cli.parser("train", "what it does", "examples: none")
    cli.add_resume(parser, "a run", "checkpoint.folder")
    options = parser.parse(arguments)
    cli.settle(options, "resume")
    assert (options.resume, options.arguments) == (resume, rest)


@pytest.mark.parametrize(
    "arguments, profile, rest",
    [
        (["my.yaml"], None, ["my.yaml"]),
        (["my.yaml", "--profile"], "", ["my.yaml"]),
        (["--profile", "my.yaml", "a=1"], "", ["my.yaml", "a=1"]),
        (["--profile", "a=1", "b=2"], "", ["b=2", "a=1"]),
        (["--profile", "out/trace.json", "a=1"], "out/trace.json", ["a=1"]),
    ],
)
def test_profile_takes_a_path_and_leaves_other_arguments(arguments, profile, rest):
    parser = cli.parser("train", "what it does", "examples: none")
    cli.add_profile(parser)
    options = parser.parse(arguments)
    cli.settle(options, "profile")
    assert (options.profile, options.arguments) == (profile, rest)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--rounds 10", "no option --rounds 10; did you mean federation.rounds=10?"),
        ("--lr=0.1", "no option --lr=0.1; did you mean local.lr=0.1 or algorithm.lr=0.1?"),
        ("my.yaml --local.lr -0.1 a=1", "no option --local.lr -0.1; did you mean local.lr=-0.1?"),
        ("--batch-size 4", "no option --batch-size 4; did you mean local.batch_size=4?"),
        ("--round a=1", "no option --round; did you mean federation.rounds=...?"),
        ("--seed=a b", "no option --seed=a; did you mean seed=a?"),
        ("--cohort $HOME", "no option --cohort $HOME; did you mean 'federation.cohort=$HOME'?"),
        ("--cohort --json", "no option --cohort; did you mean federation.cohort=...?"),
        ("x.yaml --epochs 2 --seed 3", "epochs=2?\nno option --seed 3; did you mean seed=3?"),
        ("--nonsense 3", "no option --nonsense 3; keys of the configuration are written as in "),
    ],
)
def test_a_key_that_is_written_as_an_option_is_answered_with_the_key(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        cli.parser("train", "what it does", "examples: none").parse(arguments.split())
    assert message in capsys.readouterr().err


def test_the_answer_needs_no_torch():
    code = (
        "import sys; from fedsmu_ray import train\n"
        "try: train.main(['--rounds', '10'])\n"
        "except SystemExit: print([m for m in ('torch', 'numpy', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "did you mean federation.rounds=10?" in done.stderr and done.stdout == "[]\n"
