"""The folder of a sweep, `<tune.storage>/<name>-<time>/`.

sweep.yaml is the sweep's configuration, trials.jsonl a line per trial started or ended, ray/ what Ray Tune writes. Resuming
reads the first two, so it unpickles nothing and works however the sweep ended.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from fedsmu_ray.config.loading import read
from fedsmu_ray.config.validation import Config, parse
from fedsmu_ray.errors import ConfigError


def find_folder(config: Config, resume: str | None) -> Path:
    """A new folder's name, or the folder to go on with; raises ConfigError when there is none of this configuration."""
    storage = Path(config.tune.storage)
    if resume is None:
        return storage / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    found = (
        [Path(resume)]
        if resume
        else sorted(p.parent for p in storage.glob(f"{config.name}-*/sweep.yaml"))
    )
    if not found or not (found[-1] / "sweep.yaml").exists():
        raise ConfigError(
            [
                f"--resume {resume}: no sweep to go on with in {resume or storage} (a sweep's folder holds "
                "sweep.yaml)"
            ]
        )
    folder = found[-1]
    before = parse(read(folder / "sweep.yaml"))
    changed = {
        k for k in before.flat() | config.flat() if before.flat().get(k) != config.flat().get(k)
    }
    changed |= {"tune"} if before.tune != config.tune else set()
    if changed:
        raise ConfigError(
            [
                f"--resume {folder}: the sweep was started with another configuration (differs in "
                f"{', '.join(sorted(changed))}); give the same one, or start a new sweep"
            ]
        )
    return folder


def open_folder(folder: Path, config: Config) -> list[dict[str, Any]]:
    """The events recorded in the folder so far; makes it if it is new."""
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "sweep.yaml").write_text(config.to_yaml(), encoding="utf-8")
    events = folder / "trials.jsonl"
    lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
    return [event for line in lines if (event := _event(line))]


def _event(line: str) -> dict[str, Any] | None:
    """A recorded event; None for a line that a crash cut short."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
