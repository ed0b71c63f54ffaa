"""Every environment variable that this package reads or sets; others do not use `os.environ`.

The values set here are defaults: a variable that the user has set keeps its value.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pwd
import re
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

# Ray and Tune read these when they are imported, so this package sets them when it is imported.
RAY_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # results of an abandoned round are never read
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future behavior of Ray; silences its warning
    # The sweep has a progress display, tracked runs and an interrupt handler of its own.
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports an error and no metric
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
MLFLOW_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for results, a URL has passwords
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own retries would stop training for minutes; the tracker retries in the background.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds
}
WANDB_DEFAULTS = {"WANDB_ERROR_REPORTING": "false"}
_set_here: dict[str, str] = {}  # what this process has set, and the user had not


def set_ray_defaults() -> None:
    """Set the defaults for Ray and Ray Tune; must run before either is imported."""
    _set_defaults(RAY_DEFAULTS)


def set_mlflow_defaults() -> None:
    """Set the defaults for MLflow's client."""
    _set_defaults(MLFLOW_DEFAULTS)


def mlflow_uri() -> str:
    """The default store of runs: $MLFLOW_TRACKING_URI, else a database in the working folder."""
    return mlflow_uri_set() or "sqlite:///mlflow.db"


def mlflow_uri_set() -> str | None:
    """$MLFLOW_TRACKING_URI, if it is set."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def mlflow_experiment() -> str:
    """The default experiment of MLflow: $MLFLOW_EXPERIMENT_NAME, else `fedsmu`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "fedsmu"


def set_wandb_defaults() -> None:
    """Set the defaults for the client of Weights & Biases."""
    _set_defaults(WANDB_DEFAULTS)


def wandb_project() -> str | None:
    """The project of Weights & Biases that the user has set."""
    return os.environ.get("WANDB_PROJECT") or None


def wandb_uploads() -> bool:
    """Whether Weights & Biases is to send the runs to its server, not only to write files."""
    return os.environ.get("WANDB_MODE", "") not in ("offline", "dryrun", "disabled")


def of_mlflow_server(auth_config: Path | None = None, session_key: str = "") -> dict[str, str]:
    """The environment of an MLflow server; with basic authentication, if that is configured."""
    own = {
        "MLFLOW_AUTH_CONFIG_PATH": str(auth_config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": session_key,
    }
    return {
        **os.environ,
        **(own if auth_config else {}),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves ten processes
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def double_mlflow_timeout(limit_s: int) -> bool:
    """Double the time that MLflow's client waits for a response.

    Returns False if that would exceed `limit_s` seconds, or if the user has set the time.
    """
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    if not _is_ours(name) or (doubled := 2 * int(os.environ[name])) > limit_s:
        return False
    os.environ[name] = _set_here[name] = str(doubled)
    return True


def set_home() -> None:
    """Set a home folder and a user name where there are none, as for a user id without an account.

    MLflow and PyTorch need them, and Ray keeps a token in ~/.ray. The folder is a private one among
    the temporary files.
    """
    home = os.path.expanduser("~")
    if not os.access(home, os.W_OK) and not os.path.isdir(os.path.join(home, ".ray")):
        os.environ["HOME"] = _temporary_home()
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            os.environ["USER"] = f"uid-{os.getuid()}"


def _temporary_home() -> str:
    path = os.path.join(tempfile.gettempdir(), f"fedsmu_ray-home-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    if os.lstat(path).st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "belongs to another user; remove it, or set HOME", path)
    return path


def set_deterministic_cublas() -> None:
    """Fix the cuBLAS workspace, without which PyTorch refuses deterministic matrix products."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def visible_gpus() -> list[str]:
    """The names in $CUDA_VISIBLE_DEVICES: numbers of cards, or GPU-... and MIG-... identifiers.

    Ray sets it for every actor that has a GPU.
    """
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [name.strip() for name in names if name.strip()]


def use_cluster_token(address: str | None) -> bool:
    """Have Ray authenticate with the token, as in ~/.ray/auth_token, if a cluster is joined.

    Must run before Ray is imported. Returns whether something has changed.
    """
    if "RAY_AUTH_MODE" in os.environ or not ray_address(address) or not ray_token_place():
        return False
    os.environ["RAY_AUTH_MODE"] = "token"
    return True


def ray_sends_token() -> bool:
    """Whether Ray authenticates with a token."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def ray_token_place() -> str | None:
    """Where Ray finds its token: the name of a variable, or a file; None if there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named or os.path.expanduser("~/.ray/auth_token"))
    try:
        return str(file) if file.read_bytes().strip() else None
    except OSError:
        return None


def ray_address(address: str | None = None) -> str | None:
    """The address of the cluster to join: the one given, else $RAY_ADDRESS.

    None if there is neither, or for "local": Ray is then started on this machine.
    """
    found = (address or os.environ.get("RAY_ADDRESS") or "").strip()
    return None if found == "local" else found or None


def ray_uses_tls() -> bool:
    """Whether Ray's connections are encrypted."""
    return os.environ.get("RAY_USE_TLS", "0") not in ("", "0")


def is_kuberay() -> bool:
    """Whether this process is in a pod of KubeRay, whose autoscaler is in another container."""
    return "RAY_USAGE_STATS_KUBERAY_IN_USE" in os.environ


def limit_pending_trials(count: int) -> None:
    """Set how many trials Tune keeps waiting for resources at once."""
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(count)


def expand_path(text: str) -> str:
    """A path with ~, ~user, $NAME and ${NAME} replaced as in a shell, and then absolute.

    A folder that exists under the name that is written, such as `a$b`, is meant as it is. Raises
    ValueError, which says what is wrong, if a home directory is not known or a variable not set.
    """
    if "~" not in text and "$" not in text:
        return text
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError("the home directory cannot be determined; write the full path")
    path = Path.cwd()
    for i, part in enumerate(Path(expanded).parts):
        if not os.path.exists(path / part):
            part = _VARIABLE.sub(_value_of, part)
            if part == "~":
                raise ValueError("~ stands for the home directory only at the beginning")
        path /= part.lstrip("/") if i else part
    return str(path)


_VARIABLE = re.compile(r"\$([a-zA-Z_]\w*|\{\w+\})")


def _value_of(variable: re.Match[str]) -> str:
    name = variable[1].strip("{}")
    value = os.environ.get(name)
    if not value:
        raise ValueError(f"the environment variable {name} is not set; set it, or write the path")
    return value


def data_root() -> Path:
    """The default folder of data sets: $FEDSMU_DATA, else ~/.cache/fedsmu_ray."""
    return Path(os.environ.get("FEDSMU_DATA") or "~/.cache/fedsmu_ray").expanduser()


def cache_folder() -> Path:
    """The folder of decoded images and temporary files of data: $FEDSMU_CACHE, else the user's."""
    own = os.environ.get("FEDSMU_CACHE")
    return Path(own).expanduser() if own else _user_cache() / "fedsmu_ray"


def results_path(path: str | Path) -> Path:
    """Where a result with this path is: a relative one is below $FEDSMU_RESULTS, if that is set.

    Otherwise it is below the working directory; that of a Ray job is a temporary folder of Ray, so
    ~/fedsmu_results takes its place.
    """
    own = os.environ.get("FEDSMU_RESULTS")
    if own:
        return Path(expand_path(own)).absolute() / path
    here = Path.cwd()
    if "runtime_resources" in here.parts and not Path(path).is_absolute():
        return _results_of_job(here) / path
    return Path(path)


def cluster_results() -> Path:
    """The folder of all results on the head of a cluster: $FEDSMU_RESULTS or ~/fedsmu_results."""
    return Path(expand_path(os.environ.get("FEDSMU_RESULTS") or "~/fedsmu_results")).absolute()


@cache
def _results_of_job(working_directory: Path) -> Path:
    folder = Path("~/fedsmu_results").expanduser()
    log.warning(
        "results are in %s: the working directory of a Ray job is temporary (FEDSMU_RESULTS names "
        "another folder)",
        folder,
    )
    return folder


def has_mlflow_credentials() -> bool:
    """Whether MLflow's client finds a password or token in the environment."""
    names = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    return any(os.environ.get(name) for name in names)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _set_defaults(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if name not in os.environ or _is_ours(name):
            os.environ[name] = _set_here[name] = value


def _is_ours(name: str) -> bool:
    return name in _set_here and os.environ.get(name) == _set_here[name]
