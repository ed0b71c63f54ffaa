"""`fedsmu COMMAND`: which command runs, and the overview."""

import sys

import pytest

import fedsmu_ray
from fedsmu_ray.__main__ import main
from fedsmu_ray.cli import program
from fedsmu_ray.commands import COMMANDS


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_command(capsys, arguments):
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: fedsmu COMMAND ..."
    assert [line.split()[0] for line in lines[2 : 2 + len(COMMANDS)]] == list(COMMANDS)


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fedsmu_ray {fedsmu_ray.__version__}\n"


def test_an_unknown_command_is_named_with_the_nearest(capsys):
    assert main(["tunee"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: tunee is not a command; did you mean tune?\n") and not out


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "cluster"])
@pytest.mark.parametrize(
    "typed, words",
    [
        ("/bin/fedsmu", "fedsmu {}"),
        (sys.modules["fedsmu_ray.__main__"].__file__, "python -m fedsmu_ray {}"),
        ("/x/fedsmu_ray/{}.py", "python -m fedsmu_ray.{}"),
    ],
)
def test_a_wrong_argument_names_the_command_as_it_was_typed(
    monkeypatch, capsys, command, typed, words
):
    monkeypatch.setattr(sys, "argv", [typed.format(command)])
    with pytest.raises(SystemExit, match="2"):
        main([command, "--nonsense"])
    words = words.format(command)
    assert f"usage: {words} " in (err := capsys.readouterr().err) and f"\n{words}: error: " in err
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert "python -m" not in out or "python -m" in words


def test_the_scripts_of_train_and_tune_are_named_as_typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/fedsmu-train"])
    assert program("train") == "fedsmu-train"
