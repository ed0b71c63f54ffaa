"""Executors by the name they have in the configuration (`compute.executor`)."""

from __future__ import annotations

from fedsmu_ray.executors.base import Backend


def backend(name: str) -> Backend:
    """The backend called `name`, imported when it is used, since importing Ray takes seconds."""
    match name:
        case "inline":
            from fedsmu_ray.executors.inline import InlineBackend

            return InlineBackend()
        case "ray":
            from fedsmu_ray.executors.ray_backend import RayBackend

            return RayBackend()
    raise ValueError(f"unknown executor {name!r}")
