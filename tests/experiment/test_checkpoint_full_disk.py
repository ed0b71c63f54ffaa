"""A file system that is really full: checkpoints fail, and training continues if possible.

What cannot continue ends with an error message of one line.
"""

import json
import os
import subprocess
import sys

import pytest

from fedsmu_ray import load_config, run

PLAIN = {
    "name": "full",
    "data": {"clients": 20},
    "model": {"hidden": [24]},
    "local": {"epochs": 1, "batch_size": 20},
    "federation": {"rounds": 12, "cohort": 5, "eval_every": 3},
    "tracking": {"uri": None, "models": "none"},  # a model that does not fit is a warning, too
    "compute": {"executor": "inline"},
}


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a file system of the given size in kB and returns its folder."""
    made = []

    def mount(kilobytes):
        folder = tmp_path / f"disk-{len(made)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"mounting a small file system needs root: {done.stderr.strip()}")
        made.append(folder)
        return folder

    try:
        yield mount
    finally:
        for folder in made:
            subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "full.yaml"
    path.write_text(json.dumps(PLAIN))
    return path


def fill(folder, leave):
    """Fill a file system except for `leave` bytes; returns the file that fills it."""
    free = os.statvfs(folder)
    path = folder / "other people's"
    path.write_bytes(b"0" * (free.f_bavail * free.f_bsize - leave))
    return path


def test_a_full_disk_prevents_checkpoints_and_does_not_change_the_result(disk, recipe, caplog):
    whole = run(load_config(recipe)).summary["model_sha256"]
    folder = disk(4000)
    kept = {"checkpoint.every": 2, "checkpoint.folder": str(folder)}
    short = run(
        load_config(recipe, {**kept, "federation.rounds": 5})
    ).summary  # leaves a checkpoint of round 4
    (state,) = folder.iterdir()
    before = {p.name: p.read_bytes() for p in state.iterdir()}
    assert (
        short["rounds"] == 5
        and json.loads(json.loads(before["checkpoint.json"])["manifest"])["progress"]["progress"][
            "round"
        ]
        == 4
    )
    filler = fill(folder, 8192)
    result = run(load_config(recipe, kept), resume=state)
    assert result.summary["model_sha256"] == whole
    said = [r.getMessage() for r in caplog.records]
    assert said and all(
        "No space left on device" in s and "the previous one is kept" in s for s in said
    ), said
    assert {p.name: p.read_bytes() for p in state.iterdir()} == before
    filler.unlink()
    assert run(load_config(recipe, kept), resume=state).summary["model_sha256"] == whole
    assert not list(state.glob("*.part"))


def command(module, recipe, cwd, home, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"fedsmu_ray.{module}", str(recipe), *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        env={**os.environ, "HOME": str(home)},
        timeout=600,
    )


@pytest.mark.slow
def test_a_run_that_cannot_create_its_folder_is_one_error_line(disk, recipe, tmp_path, home):
    folder = disk(64)
    fill(folder, 0)
    for module, key in (("train", "checkpoint.folder"), ("tune", "tune.storage")):
        done = command(
            module,
            recipe,
            tmp_path,
            home,
            "checkpoint.every=1",
            f"{key}={folder}",
            "tune.space.seed={grid: [1]}",
        )
        *before, line = done.stderr.splitlines()
        assert (
            done.returncode == 1
            and len(before) == (module == "train")  # which says what it loads
            and line.startswith("error: ")
            and "No space left on device" in line
        )
