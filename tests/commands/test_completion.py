"""Completion in shells, as the shells do it."""

import os
import shutil
import subprocess
import sys

import pytest

from fedsmu_ray.commands import COMMANDS
from fedsmu_ray.commands.completion import main, script
from fedsmu_ray.files import recipes

ASK = """
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_fedsmu
printf "%s\n" "${COMPREPLY[@]}"
"""


@pytest.fixture
def folder(tmp_path):
    """A working directory with files, and the command on the path."""
    (tmp_path / "folder").mkdir()
    for name in ("my.yaml", "notes.txt", "moved.yml"):
        (tmp_path / name).touch()
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "fedsmu"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m fedsmu_ray "$@"\n')
    command.chmod(0o755)
    return tmp_path


def completed(folder, *words):
    """What bash offers for the last of the words after `fedsmu`."""
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script("bash") + ASK, "bash", "fedsmu", *words],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    "words, offered",
    [
        ([""], list(COMMANDS)),
        (["t"], ["train", "tune"]),
        (["tune", "mn"], ["mnist"]),
        (["tune", "my"], ["my.yaml"]),
        (["tune", "other.yaml", "mov"], ["moved.yml"]),
        (["tune", "no"], []),  # what is no recipe is left to bash
        (["train", "my.yaml", "local.e"], ["local.epochs="]),
        (
            ["config", "federation.cl"],
            ["federation.client_retries=", "federation.client_timeout_s="],
        ),
        (["data", "fo"], ["folder/"]),
        (["recipes", ""], ["ls", "show", "cp"]),
        (["recipes", "cp", "m"], ["methods_cifar10", "methods_digits", "mnist", "multi_label"]),
        (["recipes", "show", ""], recipes.names()),
        (["cluster", "st"], ["stop", "stop-workers"]),
        (["completion", ""], ["bash", "zsh"]),
        (["train", "--s"], ["--save"]),
        (["tune", "my.yaml", "--r"], ["--resume"]),
    ],
)
def test_words_in_bash(folder, words, offered):
    assert sorted(set(completed(folder, *words))) == sorted(offered)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_script_is_printed_that_the_shell_can_read(shell, capsys):
    assert main([shell]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in (*COMMANDS, *recipes.names(), "federation.rounds="))
    assert not [name for name in ("$commands", "$cluster", "$recipes", "$keys") if name in text]
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_other_shells_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["fish"])
    assert "invalid choice: 'fish'" in capsys.readouterr().err
