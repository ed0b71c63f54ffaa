"""Folders behind a URI behave as those on a disk, as far as they are used."""

import pytest

from fedsmu_ray.files.folders import private_folder, write
from fedsmu_ray.files.remote import RemotePath, local_place, place
from tests.helpers.storages import s3, storage

__all__ = ["s3", "storage"]


def test_files_and_folders(storage):
    top = place(storage)
    folder = top / "a run, (1)+x@y"
    assert not folder.exists() and not [*folder.iterdir()]
    folder.mkdir()
    write(folder / "text", "first")
    write(folder / "text", "second")
    (folder / "raw").write_bytes(bytes(range(256)))
    assert (folder / "text").read_text() == "second"
    assert (folder / "raw").read_bytes() == bytes(range(256))
    assert {each.name for each in folder.iterdir()} == {"text", "raw"}
    assert [each.name for each in top.iterdir()] == [folder.name]
    assert folder.is_dir() and not folder.is_file() and (folder / "text").is_file()
    assert (folder / "text").parent == folder and folder.parent.path == top.path
    (folder / "raw").unlink()
    assert {each.name for each in folder.iterdir()} == {"text"}
    again = place(str(folder))  # a URI is quoted, and names the same folder
    assert (again / "text").read_text() == "second"
    folder.remove_tree()
    assert not folder.exists()


def test_what_is_missing_is_named(storage):
    missing = place(storage) / "nothing"
    for action in (missing.read_bytes, missing.unlink, missing.lstat):
        with pytest.raises(FileNotFoundError) as caught:
            action()
        assert caught.value.filename == str(missing)
    missing.unlink(missing_ok=True)


def test_an_interrupted_write_leaves_the_file_as_it_was(storage, monkeypatch):
    file = place(storage) / "file"
    file.parent.mkdir()
    write(file, "before")
    write_bytes = RemotePath.write_bytes

    def interrupted(self, raw):
        write_bytes(self, raw[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(RemotePath, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(file, "after")
    assert file.read_text() == "before"
    assert [each.name for each in file.parent.iterdir()] == ["file"]


def test_new_folders_never_have_the_same_name(storage):
    top = place(storage)
    made = {private_folder(top / "x-20250101-000000-7").name for _ in range(5)}
    assert len(made) == 5 and all(name.startswith("x-20250101-000000-7-") for name in made)


@pytest.mark.parametrize("uri", ["nosuch://a/b", "s3:///x"])
def test_a_uri_that_cannot_be_opened_is_named(uri):
    with pytest.raises(OSError) as caught:
        place(uri).exists()
    assert caught.value.filename == uri and "\n" not in caught.value.strerror


def test_what_stays_on_this_host(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSMU_RESULTS", str(tmp_path))
    assert local_place("s3://bucket/x") == tmp_path / "fedsmu_runs"
    assert local_place("runs") == place("runs") == tmp_path / "runs"
    assert local_place(tmp_path / "x") == tmp_path / "x"
