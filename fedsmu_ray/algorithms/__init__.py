"""Federated methods, one file per paper. What a method of your own needs is imported from here."""

from fedsmu_ray.algorithms.base import (
    Beta,
    Fraction,
    LocalSolver,
    Method,
    Positive,
    Rate,
    Round,
    Setting,
    State,
    TieRule,
    sign_codec,
)

__all__ = [
    "Beta",
    "Fraction",
    "LocalSolver",
    "Method",
    "Positive",
    "Rate",
    "Round",
    "Setting",
    "State",
    "TieRule",
    "sign_codec",
]
