"""Checks of values that are valid by themselves but not together, or not on this machine."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fedsmu_ray.algorithms.base import Method
from fedsmu_ray.config.compute import EXECUTORS, ComputeConfig
from fedsmu_ray.config.evaluation import check_evaluation
from fedsmu_ray.config.local import LocalConfig
from fedsmu_ray.config.optimizer import check_optimizer
from fedsmu_ray.config.plain_data import format_value
from fedsmu_ray.config.schedule import check_schedule
from fedsmu_ray.config.schema import DataConfig, FederationConfig
from fedsmu_ray.config.task import TaskConfig, check_metrics, check_options
from fedsmu_ray.config.tracking import TrackingConfig
from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.objectives.losses import LOSSES
from fedsmu_ray.objectives.metrics import EVALUATION_METRICS
from fedsmu_ray.tracking.metrics import (
    OF_CLIENTS,
    STOPPING,
    SWEEPABLE,
    is_metric,
    is_share,
    is_target,
    target_metrics,
)


def check(values: Mapping[str, Any], method_name: str, method: Method | None) -> list[str]:
    """The problems of the sections together.

    values: fields of `Config` by name; `name` and `seed` only if they are valid. method: None if
    it is not valid.
    """
    data, federation, compute = values["data"], values["federation"], values["compute"]
    measured = values["evaluation"].metrics(values["task"].may_have_accuracy)
    return [
        *_unusable_name(values.get("name", "experiment")),
        *_impossible_cohorts(data, federation),
        *_impossible_work(values["local"]),
        *_impossible_optimizer(values["local"], method_name, method),
        *_impossible_stop(data, federation, values["task"], measured),
        *_impossible_weighting(federation, method_name, method),
        *_impossible_schedules(values["local"], federation, method_name, method),
        *_impossible_compute(compute, federation),
        *check_options(values["task"]),
        *check_metrics(values["task"]),
        *check_evaluation(values["evaluation"], data.clients),
        *_unmeasured(values["tune"], federation, data, values["task"], measured),
        *_impossible_objectives(values["tune"]),
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
    candidates = federation.candidates
    if candidates is not None and not federation.chooses:
        yield (
            f"federation.candidates = {candidates}: federation.sampling = {federation.sampling} "
            "does not read it (only power_of_choice); remove it"
        )
    elif candidates is not None and not cohort <= candidates <= data.clients:
        yield (
            f"federation.candidates = {candidates}: must be from federation.cohort = {cohort} to "
            f"data.clients = {data.clients}"
        )
    if federation.min_cohort > cohort:
        yield (
            f"federation.min_cohort = {federation.min_cohort}: only federation.cohort = {cohort} "
            "clients are sampled for a round; lower it"
        )


def _impossible_work(local: LocalConfig) -> Iterator[str]:
    given = {"epochs": local.epochs, "steps": local.steps}
    if None not in given.values():
        yield (
            f"local.steps = {format_value(local.steps)}: clients train for local.epochs = "
            f"{format_value(local.epochs)} already; remove one of them, or set it to null"
        )
    if not any(given.values()):
        yield "local.epochs = null: clients would not train; give it, or local.steps"
    for key, value in given.items():
        if isinstance(value, Mapping) and value["uniform"][0] > value["uniform"][1]:
            low, high = value["uniform"]
            yield (
                f"local.{key} = {format_value(value)}: draws are from the first number to the "
                f"second; write {{uniform: [{high}, {low}]}}"
            )
    if (micro := local.micro_batch_size) is not None and micro >= local.batch_size:
        yield (
            f"local.micro_batch_size = {micro}: local.batch_size = {local.batch_size} is computed "
            "at once already; lower it, or remove it"
        )


def _impossible_optimizer(local: LocalConfig, name: str, method: Method | None) -> Iterator[str]:
    optimizer = local.optimizer
    yield from check_optimizer(optimizer)
    if method and not optimizer.is_plain and (reason := method.sgd_only):
        key = "momentum" if optimizer.name == "sgd" else "name"
        yield (
            f"local.optimizer.{key} = {getattr(optimizer, key)}: algorithm.name = {name} needs SGD "
            f"without momentum, as {reason}; remove local.optimizer"
        )


def _impossible_weighting(
    federation: FederationConfig, name: str, method: Method | None
) -> Iterator[str]:
    if federation.weighting != "uniform" and method and method.uniform_only:
        yield (
            f"federation.weighting = {federation.weighting}: algorithm.name = {name} needs equal "
            f"weights, as {method.uniform_only}; use federation.weighting=uniform"
        )


def _impossible_schedules(
    local: LocalConfig, federation: FederationConfig, name: str, method: Method | None
) -> Iterator[str]:
    server, rounds = federation.server_schedule, federation.rounds
    yield from check_schedule("local.schedule", local.schedule, rounds)
    yield from check_schedule("federation.server_schedule", server, rounds)
    if server.is_set and method and method.server_rate is None:
        yield (
            f"federation.server_schedule: algorithm.name = {name} names no rate of its server's "
            "step (`server_rate`); remove the schedule, or use local.schedule"
        )


def _impossible_stop(
    data: DataConfig, federation: FederationConfig, task: TaskConfig, measured: Collection[str]
) -> Iterator[str]:
    stop = federation.stop
    metric = stop.metric or task.judged(data.validation)
    if stop.metric is not None:
        key = "federation.stop.metric"
        yield from _unmeasured_metric(key, stop.metric, STOPPING, data, task, measured)
    if not stop.is_set and (stop.metric is not None or stop.min_rounds > 1):
        yield (
            "federation.stop: neither target nor patience is given, so nothing would end the run; "
            "add one, as in federation.stop.patience=10, or remove federation.stop"
        )
    if stop.target is not None and is_share(metric) and not 0 < stop.target <= 1:
        yield (
            f"federation.stop.target = {stop.target:g}: {metric} is from 0 to 1; give a value "
            "above 0 and up to 1, as in 0.8 for 80 %"
        )
    if stop.min_rounds > federation.rounds:
        yield (
            f"federation.stop.min_rounds = {stop.min_rounds}: more than federation.rounds = "
            f"{federation.rounds}, so the run could not end before; lower it"
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


def _unmeasured(
    tune: TuneConfig,
    federation: FederationConfig,
    data: DataConfig,
    task: TaskConfig,
    measured: Collection[str],
) -> Iterator[str]:
    if federation.targets and task.loss in LOSSES and not task.has_accuracy:
        yield (
            f"federation.targets: task.loss = {task.loss} is for values, which have no accuracy to "
            "reach; remove it"
        )
    targets = {metric.name for metric in target_metrics(federation.targets)}
    for metric in dict.fromkeys(tune.metrics):
        if is_target(metric) and metric not in targets:
            listed = f"has {', '.join(sorted(targets))}" if targets else "is empty"
            yield (
                f"tune.metric = {metric}: federation.targets {listed}; add the accuracy to it, as "
                "in federation.targets=[0.8] for target/0.8/uplink_bytes"
            )
        elif not is_target(metric):
            yield from _unmeasured_metric("tune.metric", metric, SWEEPABLE, data, task, measured)


def _impossible_objectives(tune: TuneConfig) -> Iterator[str]:
    """Problems of metrics with each other, and with how trials are chosen and stopped."""
    shown, metric = format_value(tune.metric), tune.primary
    if len(set(tune.metrics)) < len(tune.metrics):
        yield f"tune.metric = {shown}: has a metric twice; remove one"
    elif len(tune.metrics) > 1 and tune.scheduler != "none":
        yield (
            f"tune.scheduler = {tune.scheduler}: it stops trials by one metric, and tune.metric "
            f"has {len(tune.metrics)}; set tune.scheduler=none, or give one metric"
        )
    elif is_target(metric) and tune.scheduler != "none":
        yield (
            f"tune.scheduler = {tune.scheduler}: {metric} is known only when a trial has "
            "reached the accuracy, so it cannot tell which trials to stop; set tune.scheduler=none "
            "(federation.stop.target ends a trial there), or another tune.metric"
        )
    elif tune.scheduler == "hyperband" and tune.seeds != 1:
        yield (
            f"tune.scheduler = hyperband: it compares single trials, and tune.seeds = "
            f"{format_value(tune.seeds)}; set tune.seeds=1, or use asha or median, which compare "
            "the means over seeds"
        )
    elif tune.scheduler == "hyperband" and tune.concurrent is not None:
        yield (
            f"tune.concurrent = {tune.concurrent}: trials that hyperband has paused would count, "
            "so that few are compared; remove tune.concurrent"
        )
    elif metric.startswith("comm/"):
        yield (
            f"tune.metric = {shown}: whoever learns nothing may send the least; rank by another "
            "metric, as in [test/accuracy, comm/uplink_bytes], or by target/0.8/uplink_bytes"
        )


def _unmeasured_metric(
    key: str,
    metric: str,
    known: Collection[str],
    data: DataConfig,
    task: TaskConfig,
    of_clients: Collection[str],
) -> Iterator[str]:
    """Problems of a metric by which something is decided while models are trained.

    of_clients: metrics over clients that are measured.
    """
    if metric not in known:
        unmeasured = {*EVALUATION_METRICS} - {*task.metrics}
        measured = [
            n
            for n in known
            if n.partition("/")[2] not in unmeasured and (n in of_clients or n not in OF_CLIENTS)
        ]
        close = difflib.get_close_matches(metric, measured, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        yield f"{key} = {format_value(metric)}: must be one of {', '.join(measured)}{meant}"
        return
    if metric in OF_CLIENTS and metric not in of_clients:
        yield f"{key} = {metric}: it is not measured; {_cure_of_clients(metric, task, of_clients)}"
        return
    name = metric.partition("/")[2]
    if name in EVALUATION_METRICS and name not in task.metrics:
        yield f"{key} = {metric}: it is not measured; add it to task.metrics, as in [{name}]"
    if name == "accuracy" and task.loss in LOSSES and not task.has_accuracy:
        yield (
            f"{key} = {metric}: task.loss = {task.loss} is for values, which have no accuracy; use "
            f"{metric.replace('accuracy', 'loss')} or a metric of task.metrics"
        )
    if metric.startswith("val/") and not data.validation:
        yield (
            f"{key} = {metric}: there are no validation samples; set data.validation, as in "
            "data.validation=0.1"
        )
    if metric.startswith("test/") and data.validation:
        what = "trials are not chosen" if key == "tune.metric" else "no run ends by its results"
        yield (
            f"{key} = {metric}: with data.validation = {data.validation} {what} on the test set; "
            "use val/accuracy or val/loss, or remove data.validation"
        )


def _cure_of_clients(metric: str, task: TaskConfig, measured: Collection[str]) -> str:
    """How a metric over clients would be measured."""
    if not measured:
        return "set evaluation.clients, as in evaluation.clients=all"
    if "accuracy" in metric and not task.has_accuracy:
        return f"task.loss = {task.loss} is for values, which have no accuracy; use the loss"
    if "personalised" in metric:
        return "set evaluation.personalise.epochs, as in evaluation.personalise.epochs=1"
    return f"use {metric.replace('loss', 'accuracy')}"


def _opposite_mode(tune: TuneConfig) -> Iterator[str]:
    if not is_metric(tune.primary):
        return  # which is a problem already
    if tune.mode not in (None, tune.direction):
        better = "larger" if tune.direction == "max" else "smaller"
        yield (
            f"tune.mode = {tune.mode}: {tune.primary} is better when it is {better}, so the worst "
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
