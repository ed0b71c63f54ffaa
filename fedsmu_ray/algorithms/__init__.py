"""Federated methods, one file per paper. What a method of your own needs is imported from here."""

from fedsmu_ray.algorithms.base import (
    Beta,
    LocalSolver,
    Method,
    Rate,
    Round,
    Setting,
    State,
    TieRule,
)

__all__ = ["Beta", "LocalSolver", "Method", "Rate", "Round", "Setting", "State", "TieRule"]
