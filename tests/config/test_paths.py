"""Paths in a configuration: expanded where it is read, whatever key they belong to."""

import pytest
import yaml

from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "key, written, read",
    [
        ("checkpoint.folder", "~/runs", "/home/me/runs"),
        ("checkpoint.folder", "$SCRATCH/runs", "/scratch/me/runs"),
        ("checkpoint.folder", "runs", "runs"),
        ("tune.storage", "~/runs/", "/home/me/runs"),
        ("tune.storage", "file:///data/my%20runs", "/data/my runs"),
        ("tune.storage", "s3://bucket/~/$x?region=eu-west-1", "s3://bucket/~/$x?region=eu-west-1"),
        ("data.root", "~/data", "/home/me/data"),
        ("data.root", "/data/x.npz", "/data/x.npz"),
        ("tracking.uri", "sqlite:///~/x/mlflow.db", "sqlite:////home/me/x/mlflow.db"),
        ("tracking.uri", "sqlite:////a/$SCRATCH/x.db", "sqlite:////a/scratch/me/x.db"),
        ("tracking.uri", "sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("tracking.uri", "~/mlruns", "/home/me/mlruns"),
        ("tracking.uri", "file:~/mlruns", "file:/home/me/mlruns"),
        ("tracking.uri", "http://host/~me/$x", "http://host/~me/$x"),
        ("tracking.uri", "databricks", "databricks"),
        ("data.dataset", "hf:~/faces", "hf:/home/me/faces"),
        ("data.dataset", "hf:owner/faces", "hf:owner/faces"),
        ("data.dataset", "import:mine:data", "import:mine:data"),
    ],
)
def test_a_path_is_expanded_and_stays_so(key, written, read):
    config = load_config(overrides=[f"{key}={written}"])
    assert config.to_dict()[key.split(".")[0]][key.split(".")[1]] == read
    assert parse(yaml.safe_load(config.to_yaml())) == config


def test_the_data_of_a_run_is_found_from_any_folder(tmp_path, monkeypatch):
    config = load_config(overrides={"data.root": "data"})
    assert config.data.root == f"{tmp_path}/data"
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    monkeypatch.chdir("/")
    assert load_config(tmp_path / "config.yaml").data.folder() == tmp_path / "data"


def test_a_file_may_be_given_below_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my.yaml").write_text("seed: 5")
    assert load_config("~/my.yaml").seed == 5
    with pytest.raises(
        ConfigError, match="~nobody-here/x.yaml: cannot be read: the home directory"
    ):
        load_config("~nobody-here/x.yaml")


@pytest.mark.parametrize("key", ["checkpoint.folder", "tune.storage", "data.root"])
@pytest.mark.parametrize(
    "written, words",
    [
        ("", "must be a folder"),
        ("  ", "must be a folder"),
        ("$NOT_SET_HERE/x", "the environment variable NOT_SET_HERE is not set"),
        ("~nobody-here", "the home directory cannot be determined"),
        ("a" * 5000 + "/$NOT_SET_HERE", "the environment variable NOT_SET_HERE is not set"),
        ("x/~/y", "~ stands for the home directory only at the beginning"),
    ],
)
def test_what_is_no_folder_is_refused(key, written, words):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides={key: written})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{key} = {written!r:.100}"[:-1]) and words in problem


@pytest.mark.parametrize("key", ["checkpoint.folder", "tune.storage"])
def test_a_file_is_no_folder(tmp_path, key):
    (tmp_path / "runs").write_text("")
    with pytest.raises(ConfigError, match=f"{key} = 'runs': is a file; must be a folder"):
        load_config(overrides={key: "runs"})


def test_a_name_that_no_file_system_takes_is_refused_where_it_is_used():
    assert load_config(overrides={"tune.storage": "a" * 5000}).tune.storage == "a" * 5000


def test_data_are_on_a_mounted_file_system():
    with pytest.raises(ConfigError, match="data.root = 's3://b/x': must be a folder of a mounted"):
        load_config(overrides={"data.root": "s3://b/x"})


@pytest.mark.parametrize("key", ["checkpoint.folder", "tune.storage"])
def test_a_password_in_the_uri_of_a_folder_is_refused_and_not_told(key):
    for uri in ("s3://me:hush@bucket/x", "s3://bucket/x?secret_key=hush", "file://host/x"):
        with pytest.raises(ConfigError, match=f"{key} = .*(AWS_ACCESS_KEY_ID|file:///)") as caught:
            load_config(overrides={key: uri})
        assert "hush" not in str(caught.value)
