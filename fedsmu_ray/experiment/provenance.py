"""Where a result comes from, as tags of its run: versions, working copy, processor."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from fedsmu_ray.config.compute import ComputeConfig

GIT_TIMEOUT_S = 5.0
PACKAGES = {"fedsmu-ray": "fedsmu_ray", "torch": "torch", "ray": "ray"}


def provenance(compute: ComputeConfig) -> dict[str, str]:
    """Tags with what an experiment is computed by, as far as this process can see."""
    commit = git_commit()
    return {
        **_versions(),
        **({"git.commit": commit} if commit else {}),
        "fedsmu.device": _gpu() if compute.gpus_per_actor else _cpu(),
    }


@cache
def _versions() -> dict[str, str]:
    found = {"version.python": platform.python_version()}
    for name, module in PACKAGES.items():
        with suppress(PackageNotFoundError):  # ours, in a checkout that is not installed
            found[f"version.{module}"] = version(name)
    return found


def git_commit() -> str | None:
    """The commit of the working copy that the command runs in; None if it runs in none.

    It ends with "-dirty" if files that git knows have changed.
    """
    # An fsmonitor of the working copy would be a program that is run.
    command = ["git", "-c", "core.fsmonitor=false", "describe", "--always", "--dirty"]
    command += ["--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _gpu() -> str:
    """The GPU of this host, which may not be the one that trains."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "GPU"


@cache
def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
