"""Environment variables: accessed in one module only; the user's values are kept."""

import ast
import os
from pathlib import Path

import pytest

from fedsmu_ray import environment

PACKAGE = Path(environment.__file__).parent


def test_no_other_module_touches_the_environment():
    names = {"environ", "getenv", "putenv", "environb"}
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        used |= {
            alias.name
            for node in nodes
            if isinstance(node, ast.ImportFrom) and node.module == "os"
            for alias in node.names
        }
        assert path.name == "environment.py" or not used & names, path


@pytest.mark.parametrize(
    "set_defaults, defaults",
    [
        (environment.set_ray_defaults, environment.RAY_DEFAULTS),
        (environment.set_mlflow_defaults, environment.MLFLOW_DEFAULTS),
    ],
)
def test_defaults_are_set_and_the_users_values_are_kept(monkeypatch, set_defaults, defaults):
    monkeypatch.setattr(os, "environ", {})
    set_defaults()
    assert os.environ == defaults
    mine = dict.fromkeys(defaults, "mine")
    monkeypatch.setattr(os, "environ", dict(mine))
    set_defaults()
    assert os.environ == mine


def test_results_are_not_left_in_the_temporary_folder_of_a_ray_job(monkeypatch, tmp_path, caplog):
    monkeypatch.delenv("FEDSMU_RESULTS", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    assert environment.results_path("runs") == Path("runs")
    job = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    job.mkdir(parents=True)
    monkeypatch.chdir(job)
    for _ in range(2):
        assert environment.results_path("runs") == Path("/home/me/fedsmu_results/runs")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "results are in /home/me/fedsmu_results"
    ]
    monkeypatch.setenv("FEDSMU_RESULTS", "~/mine")
    assert environment.results_path("runs") == Path("/home/me/mine/runs")
    assert environment.results_path("/data/runs") == Path("/data/runs")


def test_cublas_gets_a_fixed_workspace(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    environment.set_deterministic_cublas()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    environment.set_deterministic_cublas()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize("given", [None, ""])
def test_the_address_of_a_cluster(monkeypatch, given):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert environment.ray_address(given) is None and environment.ray_address("auto") == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert environment.ray_address(given) == "10.0.0.1:6379"
    assert environment.ray_address("auto") == "auto"
    assert environment.ray_address("local") is None
    monkeypatch.setenv("RAY_ADDRESS", " 10.0.0.1:6379\n")
    assert environment.ray_address(given) == "10.0.0.1:6379"
    for nothing in ("", " "):
        monkeypatch.setenv("RAY_ADDRESS", nothing)
        assert environment.ray_address(given) is None


def test_the_token_is_used_where_a_cluster_is_joined_and_a_token_exists(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    assert not environment.use_cluster_token("auto")
    assert "RAY_AUTH_MODE" not in os.environ and not environment.ray_sends_token()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    assert not environment.use_cluster_token(None)
    assert "RAY_AUTH_MODE" not in os.environ
    assert environment.use_cluster_token("auto")
    assert os.environ["RAY_AUTH_MODE"] == "token" and environment.ray_sends_token()
    assert not environment.use_cluster_token("auto")  # nothing has changed


def test_the_token_is_searched_where_ray_does(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    assert environment.ray_token_place() is None
    (tmp_path / ".ray").mkdir()
    file = tmp_path / ".ray" / "auth_token"
    file.write_text("\n")
    assert environment.ray_token_place() is None  # Ray calls an empty one missing, too
    file.write_text("token\n")
    assert environment.ray_token_place() == str(file)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "missing")
    assert environment.ray_token_place() is None
    os.environ["RAY_AUTH_TOKEN"] = "token"
    assert environment.ray_token_place() == "RAY_AUTH_TOKEN"


def test_pending_trials_are_limited(monkeypatch):
    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "1")
    environment.limit_pending_trials(7)
    assert os.environ["TUNE_MAX_PENDING_TRIALS_PG"] == "7"


def test_where_data_and_caches_are(monkeypatch, tmp_path):
    for name in ("FEDSMU_DATA", "FEDSMU_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert environment.data_root() == tmp_path / ".cache" / "fedsmu_ray"
    assert environment.cache_folder() == tmp_path / ".cache" / "fedsmu_ray"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert environment.cache_folder() == tmp_path / "cache" / "fedsmu_ray"
    monkeypatch.setenv("FEDSMU_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FEDSMU_CACHE", str(tmp_path / "own"))
    assert environment.data_root() == tmp_path / "data"
    assert environment.cache_folder() == tmp_path / "own"


def test_paths_are_expanded_as_in_a_shell(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    for text, path in {
        "~": "/home/me",
        "~/runs/": "/home/me/runs",
        "$SCRATCH/runs": "/scratch/me/runs",
        "/data/${SCRATCH}/x": "/data/scratch/me/x",
        "/a/x$SCRATCH": "/a/x/scratch/me",
        "runs/": "runs/",
        "a/../$SCRATCH": f"{tmp_path}/a/../scratch/me",  # where it leads depends on links
        "cost $ 5": f"{tmp_path}/cost $ 5",
        "x~": f"{tmp_path}/x~",
        "cost$5": f"{tmp_path}/cost$5",
    }.items():
        assert environment.expand_path(text) == path
        assert environment.expand_path(path) == path


def test_a_folder_that_exists_as_it_is_written_is_meant(monkeypatch, tmp_path):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    for name in ("a$SCRATCH", "b$NOT_SET", "~"):
        (tmp_path / name).mkdir()
        assert environment.expand_path(f"{tmp_path}/{name}/x") == f"{tmp_path}/{name}/x"


@pytest.mark.parametrize(
    "text, words",
    [
        ("~nobody-here/x", "the home directory cannot be determined; write the full path"),
        ("$NOT_SET_ANYWHERE/x", "the environment variable NOT_SET_ANYWHERE is not set"),
        ("/a/~/x", "only at the beginning"),
    ],
)
def test_paths_that_cannot_be_expanded(text, words):
    with pytest.raises(ValueError, match=words):
        environment.expand_path(text)


def test_the_time_limit_of_mlflow_is_raised_unless_the_user_has_set_it(monkeypatch):
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.setattr(os, "environ", {})
    environment.set_mlflow_defaults()
    raised = [environment.double_mlflow_timeout(20) for _ in range(3)]
    assert raised == [True, True, False] and os.environ[name] == "20"
    environment.set_mlflow_defaults()  # of the next tracker
    assert os.environ[name] == "5"
    os.environ[name] = "7"
    environment.set_mlflow_defaults()
    assert not environment.double_mlflow_timeout(20) and os.environ[name] == "7"


def test_where_mlflow_finds_a_password(monkeypatch):
    monkeypatch.setattr(os, "environ", {"MLFLOW_TRACKING_PASSWORD": ""})
    assert not environment.has_mlflow_credentials()
    os.environ["MLFLOW_TRACKING_TOKEN"] = "x"
    assert environment.has_mlflow_credentials()


def test_a_home_folder_and_a_user_name_where_there_are_none(monkeypatch, tmp_path):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(environment.pwd, "getpwuid", unknown)  # the tests run as a known user
    monkeypatch.setattr(os, "environ", {"HOME": "/missing/home", "USER": "me"})
    home = tmp_path / f"fedsmu_ray-home-{os.getuid()}"
    for _ in range(2):  # the second process finds the folder of the first
        environment.set_home()
        assert os.environ == {"HOME": str(home), "USER": "me"}
    assert home.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "environ", {})
    environment.set_home()
    assert os.environ == {"HOME": str(home), "USER": f"uid-{os.getuid()}"}
    os.environ.update(HOME="/missing/home")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (tmp_path / "fedsmu_ray-home-12345").mkdir()  # made by another user
    with pytest.raises(PermissionError, match="belongs to another user"):
        environment.set_home()


def test_visible_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment.visible_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1, 2,")
    assert environment.visible_gpus() == ["MIG-1", "2"]
