"""Federated learning experiments with 1-bit uploads, over Ray and MLflow.

from fedsmu_ray import load_config, run, sweep

result = run(load_config("experiment.yaml", {"local.lr": 0.05}))
result.summary["test_accuracy"], result.model()
result.save("model.safetensors")        # load_model("model.safetensors") is that model

outcome = sweep(load_config())          # the quickstart sweep
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedsmu_ray import environment

if TYPE_CHECKING:
    from fedsmu_ray.config.loading import load_config
    from fedsmu_ray.experiment.model_file import load_model
    from fedsmu_ray.experiment.run import run
    from fedsmu_ray.sweeps.sweep import sweep

__all__ = ["load_config", "load_model", "run", "sweep"]
__version__ = "0.1.0"

environment.set_home()
environment.set_ray_defaults()
_EXPORTS = {
    "load_config": "config.loading",
    "load_model": "experiment.model_file",
    "run": "experiment.run",
    "sweep": "sweeps.sweep",
}


def __getattr__(name: str) -> Any:
    """Import an export on first use: torch and Ray take seconds, and `--help` needs neither."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'fedsmu_ray' has no attribute '{name}'")
    value = getattr(import_module(f"fedsmu_ray.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value
