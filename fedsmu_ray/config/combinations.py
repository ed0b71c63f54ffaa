"""Checks of values that are valid by themselves but not together, or not on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedsmu_ray.config.compute import EXECUTORS, ComputeConfig
from fedsmu_ray.config.plain_data import format_value
from fedsmu_ray.config.schema import DataConfig, FederationConfig, TuneConfig
from fedsmu_ray.config.tracking import TrackingConfig


def check(values: Mapping[str, Any]) -> list[str]:
    """The problems of the sections together.

    values: fields of `Config` by name; `name` and `seed` only if they are valid.
    """
    data, federation, compute = values["data"], values["federation"], values["compute"]
    return [
        *_unusable_name(values.get("name", "experiment")),
        *_impossible_cohorts(data, federation),
        *_impossible_compute(compute, federation),
        *_unmeasured(values["tune"], data),
        *_opposite_mode(values["tune"]),
        *_unregistrable(values["tracking"]),
    ]


def _unusable_name(name: str) -> Iterator[str]:
    # A folder's name has at most 255 bytes, about 30 of them for time and process.
    if not re.fullmatch(r"\w[\w .,=+()@-]{0,99}", name) or len(name.encode()) > 220:
        yield (
            f"name = {format_value(name)}: must begin with a letter or digit and hold up to 100 "
            "letters, digits, spaces and .,=+()@_- (220 bytes), since folders are named after it"
        )


def _impossible_cohorts(data: DataConfig, federation: FederationConfig) -> Iterator[str]:
    cohort = federation.cohort
    if cohort > data.clients:
        yield (
            f"federation.cohort = {cohort}: only data.clients = {data.clients} clients exist; "
            "lower the cohort or raise data.clients"
        )
    if federation.min_cohort > cohort:
        yield (
            f"federation.min_cohort = {federation.min_cohort}: only federation.cohort = {cohort} "
            "clients are sampled for a round; lower it"
        )


def _impossible_compute(compute: ComputeConfig, federation: FederationConfig) -> Iterator[str]:
    timeout, gpus, name = federation.client_timeout_s, compute.gpus_per_actor, compute.executor
    executor = EXECUTORS[name]
    if timeout is not None and not executor.stops_clients:
        able = " or ".join(n for n, other in EXECUTORS.items() if other.stops_clients)
        yield (
            f"federation.client_timeout_s = {timeout}: compute.executor={name} cannot stop a "
            f"client that hangs; use compute.executor={able} or remove it"
        )
    if gpus > 1 and gpus != int(gpus):
        yield (
            f"compute.gpus_per_actor = {gpus}: above 1 GPU must be a whole number; "
            "a client actor uses one GPU or a fraction of one"
        )
    if compute.precision == "tf32" and not gpus:
        yield (
            "compute.precision = tf32: only GPUs have it, and compute.gpus_per_actor = 0; set "
            "gpus_per_actor, or use float32 or bfloat16"
        )


def _unmeasured(tune: TuneConfig, data: DataConfig) -> Iterator[str]:
    if tune.metric.startswith("val/") and not data.validation:
        yield (
            f"tune.metric = {tune.metric}: there are no validation samples; set data.validation, "
            "as in data.validation=0.1"
        )
    if tune.metric.startswith("test/") and data.validation:
        yield (
            f"tune.metric = {tune.metric}: with data.validation = {data.validation} trials are not "
            "chosen on the test set; use val/accuracy or val/loss, or remove data.validation"
        )


def _opposite_mode(tune: TuneConfig) -> Iterator[str]:
    if tune.mode not in (None, tune.direction):
        better = "larger" if tune.direction == "max" else "smaller"
        yield (
            f"tune.mode = {tune.mode}: {tune.metric} is better when it is {better}, so the worst "
            "trials would be taken for the best; remove tune.mode"
        )


def _unregistrable(tracking: TrackingConfig) -> Iterator[str]:
    name = tracking.register
    if name is None:
        return
    if not name.strip() or set("/:") & set(name):
        yield (
            f"tracking.register = {format_value(name)}: MLflow takes no empty name, and none with "
            "/ or :"
        )
    if tracking.models == "none":
        yield (
            f"tracking.register = {format_value(name)}: tracking.models = none keeps no model; set "
            "it to best, or remove tracking.register"
        )
