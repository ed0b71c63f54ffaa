"""Folders of runs and sweeps: which one is meant by --resume, and what is said if there is none."""

import re

import pytest

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files.run_folders import (
    RUN,
    SWEEP,
    begin,
    code_folders,
    find_folder,
    make_folder,
    new_name,
)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with two sweeps of one name, one of a longer name, a run, and a trial."""
    monkeypatch.chdir(tmp_path)
    for name, kind in (
        ("digits-20250101-000000-99", SWEEP),
        ("digits-20250102-000000-7", SWEEP),
        ("digits-20250102-000000-7-2", SWEEP),
        ("digits-long-20250103-000000-7", SWEEP),
        ("digits-20250101-000000-1-20250104-000000-1", SWEEP),  # its name ends like a folder
        ("digits-20250105-000000-1", RUN),
    ):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / kind.file).write_text("name: x")
    (tmp_path / "runs" / "digits-20250106-000000-1").mkdir()  # without a file: never started
    (tmp_path / "runs/digits-20250102-000000-7/checkpoint-003").mkdir()
    return tmp_path / "runs"


def message(kind, given, parent="runs", name="digits"):
    with pytest.raises(ConfigError) as caught:
        find_folder(kind, given, parent, name)
    (problem,) = caught.value.problems
    return problem


def test_the_latest_of_exactly_this_name_is_meant(runs):
    assert find_folder(SWEEP, "", runs, "digits") == runs / "digits-20250102-000000-7-2"
    assert find_folder(SWEEP, "", runs, "digits-long") == runs / "digits-long-20250103-000000-7"
    assert find_folder(RUN, "", runs, "digits") == runs / "digits-20250105-000000-1"
    assert message(SWEEP, "", name="digit") == (
        "--resume: no sweep to resume in runs: none is named digit; there are digits, "
        "digits-20250101-000000-1, digits-long"
    )
    assert "none is named a+(b" in message(RUN, "", "nowhere", "a+(b")


def test_a_folder_is_taken_as_given(runs, monkeypatch):
    monkeypatch.setenv("HOME", str(runs.parent))
    for given in (
        "runs/digits-20250101-000000-99",
        "runs/digits-20250101-000000-99/",
        runs / "digits-20250101-000000-99",
        "~/runs/digits-20250101-000000-99",
    ):
        assert find_folder(SWEEP, given).samefile(runs / "digits-20250101-000000-99")


@pytest.mark.parametrize(
    "kind, given, words",
    [
        (
            SWEEP,
            "runs/digits-20250102-000000-8",
            "there is no such folder; did you mean digits-20250102-000000-7",
        ),
        (RUN, "nowhere/x", "there is no such folder"),
        (RUN, "~nobody-here/x", "the home directory cannot be determined"),
        (
            RUN,
            "runs/digits-20250105-000000-1/config.yaml",
            "a file; give the folder of a run, runs/digits-20250105-000000-1",
        ),
        (
            RUN,
            "runs/digits-long-20250103-000000-7",
            "it belongs to a sweep: python -m fedsmu_ray.tune --resume "
            "runs/digits-long-20250103-000000-7",
        ),
        (
            SWEEP,
            "runs/digits-20250105-000000-1",
            "it belongs to a run: python -m fedsmu_ray.train --resume ",
        ),
        (
            RUN,
            "runs/digits-20250102-000000-7/checkpoint-003",
            "it belongs to a sweep: python -m fedsmu_ray.tune --resume "
            "runs/digits-20250102-000000-7",
        ),
        (RUN, "runs", "give one of those that it holds, such as runs/digits-20250105-000000-1"),
        (RUN, "/", "not the folder of a run (no config.yaml in it)"),
    ],
)
def test_what_is_not_the_folder_is_explained(runs, kind, given, words):
    problem = message(kind, given)
    assert problem.startswith(f"--resume {given}: ") and words in problem


def test_commands_to_paste_are_quoted_for_a_shell():
    assert RUN.resume_command("a/b-1") == "python -m fedsmu_ray.train --resume a/b-1"
    quoted = SWEEP.resume_command("my runs/x (1)")
    assert quoted == "python -m fedsmu_ray.tune --resume 'my runs/x (1)'"


def test_a_new_name_has_time_and_process():
    assert re.fullmatch(r"digits-\d{8}-\d{6}-\d+", new_name("digits"))


def test_a_folder_in_which_nothing_began_is_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), make_folder(RUN, tmp_path, "x", "a: 1"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with make_folder(RUN, tmp_path, "x", "a: 1") as folder:
        begin(RUN, folder)
    assert find_folder(RUN, "", tmp_path, "x") == folder
    assert (folder / RUN.file).read_text() == "a: 1"
    with make_folder(RUN, tmp_path, "y", "a: 1") as folder:
        (folder / "results").touch()  # whatever is there, results are never removed
    assert (folder / "results").exists()


def test_the_folders_of_the_users_code_are_kept_with_a_run(tmp_path):
    with make_folder(RUN, tmp_path, "x", "a: 1", ["/a", "/b c"]) as folder:
        begin(RUN, folder)
    assert code_folders(folder / RUN.file) == ["/a", "/b c"]
    assert code_folders(folder / "other.yaml") == []  # a recipe that is not of the run
    with make_folder(RUN, tmp_path, "y", "a: 1") as other:
        begin(RUN, other)
    assert code_folders(other / RUN.file) == []
    with make_folder(RUN, tmp_path, "z", "a: 1", ["/a"]) as unused:
        pass
    assert not unused.exists()


@pytest.mark.parametrize("kind, key", [(RUN, "checkpoint.folder"), (SWEEP, "tune.storage")])
@pytest.mark.parametrize("parent", ["file", "file/below", "/proc", "/proc/nowhere"])
def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path, monkeypatch, kind, key, parent):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    told = f"{key} = {parent}: no folder can be made there .*; choose another"
    with pytest.raises(ConfigError, match=told):
        make_folder(kind, parent, "x", "name: x").__enter__()


def test_a_new_parent_is_removed_with_the_folder_that_did_not_begin(tmp_path):
    for parent in (tmp_path / "new", tmp_path):
        with make_folder(RUN, parent, "x", "name: x") as folder:
            assert folder.parent == parent
        assert not folder.exists()
    assert not [*tmp_path.iterdir()]
    new = tmp_path / "new"
    with make_folder(RUN, new, "x", "name: x"), make_folder(RUN, new, "y", "name: y") as kept:
        begin(RUN, kept)
    assert [*new.iterdir()] == [kept]


def test_folders_of_runs_are_made_and_found_below_the_folder_of_results(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSMU_RESULTS", str(tmp_path / "results"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with make_folder(RUN, "runs", "x", "name: x") as folder:
        begin(RUN, folder)
    assert folder.parent == tmp_path / "results" / "runs"
    assert find_folder(RUN, "", "runs", "x") == folder
    assert find_folder(RUN, f"runs/{folder.name}") == folder
    assert not [*(tmp_path / "elsewhere").iterdir()]
