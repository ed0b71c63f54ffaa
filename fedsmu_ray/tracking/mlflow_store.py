"""Opening the store behind a tracking URI, and what its errors mean."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fedsmu_ray import environment
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files.locks import file_lock
from fedsmu_ray.files.secrets import cut, cut_text, is_cut
from fedsmu_ray.tracking.base import absolute_uri, database_file, database_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_TIMEOUT_S = 80  # that a server may take to respond
CREATION_TIMEOUT_S = 300.0  # for another process to create a SQLite database
RACE_TIMEOUT_S = 60.0  # for another process to create the tables of a database
RETRY_INTERVAL_S = 0.5

# Responses (or their loss) by which servers and proxies refuse a request for its size.
_TOO_LARGE = re.compile(
    r"error code 413|too (large|long|big)|exceeds? .*(size|limit|length)|broken pipe|"
    r"connection reset|connection aborted",
    re.IGNORECASE,
)
_RACE = re.compile(
    r"already exists|duplicate key|found version None|database is locked|deadlock|"
    r"serialize access|remote end closed",  # the last of a connection that was idle too long
    re.IGNORECASE,
)
# What MLflow says of URIs that are no store, and what is said instead.
_KINDS = "write sqlite:///FILE for a database in a file, or http://HOST:PORT for a server"
_NO_STORES = {
    "filesystem tracking backend": f"MLflow does not write to folders any more; {_KINDS}",
    "unsupported URI": f"no kind of store that MLflow knows; {_KINDS}",
    "Could not parse SQLAlchemy URL": f"no URL of a database; {_KINDS}",
    "Invalid SQLite URL": f"no URL of a database; {_KINDS}",
    "No module named": "the driver of this database is missing; install it",
}
_STATUS = re.compile(r"failed with error code (\d{3})\b")
_PASSING = (401, 403, 408, 425, 429, 499)  # 401 and 403: credentials may be renewed


def quiet() -> None:
    """Keep MLflow and what it uses from logging migrations and errors, with tracebacks and URLs.

    What is wrong is said here.
    """
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def open_store(uri: str, experiment: str) -> tuple[MlflowClient, str, str]:
    """The client of a store, the id of the experiment, and the store's absolute URI.

    Creates a SQLite database and the experiment if they do not exist; several processes may do so
    at once. Raises ConfigError for everything that the user has to change.
    """
    environment.set_mlflow_defaults()
    if find_spec("mlflow") is None:
        raise _unusable(uri, "the package mlflow is not installed; pip install mlflow")
    from mlflow import MlflowClient

    quiet()
    uri = absolute_uri(_with_credentials(uri))
    if uri.startswith("sqlite") and uri.endswith(("://", ":///", ":memory:")):
        raise _unusable(uri, "it is in memory and ends with this process; write sqlite:///FILE")
    until = time.monotonic() + RACE_TIMEOUT_S
    try:
        if path := database_file(uri):
            _prepare_database(path, uri)
        while True:
            try:
                client = MlflowClient(uri)
                return client, _experiment_id(client, experiment, uri), uri
            except Exception as error:  # each kind of store has its own exceptions
                if is_slow(error) and environment.double_mlflow_timeout(MAX_TIMEOUT_S):
                    continue
                if not _RACE.search(str(error)) or time.monotonic() > until:
                    raise
                time.sleep(RETRY_INTERVAL_S)
    except ConfigError:
        raise
    except Exception as error:
        raise _unusable(uri, first_line(error, uri)) from None


def _with_credentials(uri: str) -> str:
    """The URI; if its password was cut out, with that of $MLFLOW_TRACKING_URI if it has one.

    Without it if MLflow finds credentials in the environment.
    """
    if not is_cut(uri):
        return uri
    own = environment.mlflow_uri_set()
    if own and cut(own) == uri:  # from which it was written
        return own
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and environment.has_mlflow_credentials():
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    raise ConfigError(
        [
            f"tracking.uri = '{uri}': its password was left out when the configuration was "
            "written; give the URI again (tracking.uri=...), or, for a server, set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        ]
    )


def _unusable(uri: str, problem: str) -> ConfigError:
    said = next((text for mark, text in _NO_STORES.items() if mark in problem), "")
    if "database schema" in problem:
        command = f"mlflow db upgrade {shlex.quote(cut(uri))}"
        problem = (
            f"another version of MLflow made it: {problem.partition('.')[0]}; if it is older, copy "
            f"it and run `{command}`, else update MLflow"
        )
    elif said:
        module = re.search(r"No module named '\w+'", problem)
        problem = f"{said} ({module[0]})" if module else said
    own = environment.mlflow_uri_set()
    where = " (of $MLFLOW_TRACKING_URI)" if own and absolute_uri(own) == uri else ""
    return ConfigError(
        [
            f"tracking.uri = '{cut(uri)}'{where}: cannot be opened ({problem}); correct it, or "
            "turn tracking off with tracking.uri=null"
        ]
    )


def _paths_may_be_quoted() -> bool:
    """Whether SQLAlchemy reads %3F in a path as ?: from version 2.1 on."""
    from sqlalchemy.engine import make_url

    return make_url("sqlite:///%3F").database == "?"


def _prepare_database(path: Path, uri: str) -> None:
    """Create a SQLite database that does not exist, whole or not at all, and for its owner only."""
    options = uri.partition("?")[2]
    if options and not all("=" in option for option in options.split("&")):
        raise _unusable(uri, "what follows ? are options; write %3F for a ? in a path")
    path = path.resolve()
    if set("%?") & set(str(path)) and not _paths_may_be_quoted():
        cure = "update SQLAlchemy to 2.1 or later, or use another folder or name"
        raise _unusable(uri, f"a path with % or ? needs SQLAlchemy 2.1; {cure}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise _unusable(uri, "it is a folder, not a database")
    if _exists(path):
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise _unusable(uri, "the database or its folder is read-only")
        return
    lock = path.with_name(f"{path.name}.lock")
    with file_lock(lock, f"the creation of {path}", CREATION_TIMEOUT_S):
        if not _exists(path):
            _create_database(path)


def _exists(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _create_database(path: Path) -> None:
    from mlflow import MlflowClient

    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)  # of a process that was killed
    part.touch(mode=0o600)
    MlflowClient(database_uri(part)).get_experiment("0")
    os.replace(part, path)


def _experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """The id of an experiment, which is created if it does not exist."""
    found = client.get_experiment_by_name(name)
    if found is None:
        # The kind makes the MLflow UI open on the runs of the experiment, not on its traces.
        tags: dict[str, Any] = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(name, _artifact_location(uri), tags))
        except Exception as error:
            if not is_refusal(error):
                raise
            found = client.get_experiment_by_name(name)  # another process has created it
            if found is None:
                raise ConfigError(
                    [
                        f"tracking.experiment = {cut(name)!r}: MLflow at {cut(uri)} refuses to "
                        f"create it ({first_line(error, uri)}); choose another one"
                    ]
                ) from None
    if found.lifecycle_stage == "deleted":
        command = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise ConfigError(
            [
                f"tracking.experiment = {name!r}: it was deleted in MLflow at {cut(uri)}; restore "
                f"it with `MLFLOW_TRACKING_URI={shlex.quote(cut(uri))} {command}`, or choose "
                "another one with tracking.experiment=..."
            ]
        )
    return str(found.experiment_id)


def _artifact_location(uri: str) -> str | None:
    """The private folder mlruns beside a local database; None lets a server decide."""
    path = database_file(uri)
    if path is None:
        return None
    folder = path.parent / "mlruns"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    return folder.as_uri()


# What an error of the client means


def is_refusal(error: Exception) -> bool:
    """Whether the store refuses a request for good, so that repeating it would not help."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return False
    if error.error_code in ("INVALID_STATE", "NOT_IMPLEMENTED"):
        return True
    return 400 <= _status(error) < 500 and _status(error) not in _PASSING and not _aborted(error)


def is_denied(error: Exception) -> bool:
    """Whether the store does not accept the credentials, or does not permit the request."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and _status(error) in (401, 403)


def is_too_large(error: Exception) -> bool:
    """Whether a smaller request may succeed."""
    return bool(_TOO_LARGE.search(str(error)))


def is_slow(error: Exception) -> bool:
    """Whether the server was reached and has not responded in time."""
    return "read timed out" in str(error).lower()


def first_line(error: Exception, uri: str) -> str:
    """The first line of an error's message, of limited length and without secrets."""
    text = str(error).replace(uri, cut(uri)).strip()
    text = re.sub(r"^\(raised as a result of Query-invoked autoflush.*\s*", "", text)  # SQLAlchemy
    return cut_text((text.splitlines() or [type(error).__name__])[0])[:400]


def _status(error: Any) -> int:
    """The HTTP status of an MlflowException, or of its error code if it came from a database."""
    told = _STATUS.search(str(error))
    return int(told[1]) if told else int(error.get_http_status_code())


def _aborted(error: Any) -> bool:
    return error.error_code in ("ABORTED", "CANCELLED")
