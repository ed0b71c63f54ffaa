"""Federated methods, one file per paper. What a method of your own needs is imported from here."""

from fedsmu_ray.algorithms.base import (
    Beta,
    Divisor,
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
    "Divisor",
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
