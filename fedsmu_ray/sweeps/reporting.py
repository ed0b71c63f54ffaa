"""The report of a sweep: when it ends, from its folder, and from the runs in a tracker."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedsmu_ray.config.schema import Config, FederationConfig
from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.config.validation import parse_section
from fedsmu_ray.config.yaml_files import read_yaml, read_yaml_text
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files.remote import Place
from fedsmu_ray.files.run_folders import SWEEP
from fedsmu_ray.files.secrets import cut
from fedsmu_ray.reports.data import Report
from fedsmu_ray.sweeps.folder import SweepFolder
from fedsmu_ray.sweeps.outcome import results
from fedsmu_ray.sweeps.settings import Row
from fedsmu_ray.sweeps.space import swept_keys
from fedsmu_ray.sweeps.tracked import rows_of
from fedsmu_ray.tracking.base import NewFile, TrackedRun, Tracker

VALIDATED, TESTED = "val/accuracy", "final/test_accuracy"  # metrics
VERSION = "version."  # begins tags with versions, see `experiment.provenance`

log = logging.getLogger(__name__)


def report_of(
    name: str,
    source: str,
    tune: TuneConfig,
    ended: Mapping[int, Row],
    *,
    has_validation: bool = False,
    is_final: bool = True,
    versions: Mapping[str, str] | None = None,
    facts: Mapping[str, str] | None = None,
    recipe: str = "",
    targets: Sequence[float] = (),
) -> Report:
    """The report of trials that have ended, by index (see `outcome.results`)."""
    outcome = results(tune, ended, has_validation, is_final, targets)
    statuses = ("failed", "diverged")
    return Report(
        name=name,
        source=source,
        metric=tune.primary,
        settings=outcome["settings"],
        findings=outcome["findings"],
        trials=outcome["trials"],
        histories={index: row.get("history") or {} for index, row in ended.items()},
        no_result=[{**row, "status": status} for status in statuses for row in outcome[status]],
        versions=versions or {},
        facts=facts or {},
        recipe=recipe,
    )


def of_folder(folder: Place, targets: Sequence[float] = ()) -> Report:
    """The report of the sweep in a folder, also while it runs; targets: instead of its own ones.

    Raises ConfigError if its configuration cannot be read. No code of the user's is imported.
    """
    file = folder / SWEEP.file
    plain, recipe = read_yaml(file), file.read_text(encoding="utf-8")
    tune: TuneConfig = parse_section("tune", plain.get("tune"))
    return _of_records(plain, tune, recipe, SweepFolder(folder), _outcome(folder), targets)


def _of_records(
    plain: Mapping[str, Any],
    tune: TuneConfig,
    recipe: str,
    records: SweepFolder,
    outcome: Mapping[str, Any],
    targets: Sequence[float] = (),
) -> Report:
    """The report from what is recorded in the folder of a sweep.

    plain: its configuration. outcome: what it prints at its end, as far as it is known. targets:
    instead of its own ones.
    """
    uri, file = outcome.get("tracking_uri"), records.path / SWEEP.file
    facts = {
        "run in MLflow": f"{records.parent_run} in {uri}" if uri and records.parent_run else "",
        "data digest": records.data,
        **_origin(outcome.get("provenance") or {}),
        "run again with": f"python -m fedsmu_ray.tune {shlex.quote(str(file))}",
    }
    return report_of(
        str(plain.get("name", records.path.name)),
        str(records.path),
        tune,
        records.ended,
        has_validation=_has_validation(plain),
        is_final=bool(outcome.get("finished")),
        versions=outcome.get("versions"),
        facts=facts,
        recipe=recipe,
        targets=targets or _targets(plain),
    )


def _outcome(folder: Place) -> dict[str, Any]:
    """What the sweep printed at its end; empty if it has not ended."""
    file = folder / "results.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _targets(plain: Mapping[str, Any]) -> Sequence[float]:
    federation: FederationConfig = parse_section("federation", plain.get("federation"))
    return federation.targets


def _origin(tags: Mapping[str, str]) -> dict[str, str]:
    """What computed the results, from the tags of a run (see `experiment.provenance`)."""
    names = {"commit": "git.commit", "processor": "fedsmu.device", "ray": f"{VERSION}ray"}
    return {name: tags.get(tag, "") for name, tag in names.items()}


def _has_validation(plain: Mapping[str, Any]) -> bool:
    return bool((plain.get("data") or {}).get("validation"))


def of_runs(
    name: str,
    uri: str,
    runs: Sequence[TrackedRun],
    parent: TrackedRun | None,
    targets: Sequence[float] = (),
) -> Report:
    """The report of runs in a tracker.

    parent: the run of the sweep that they are the trials of; None: runs of an experiment, which are
    compared by accuracy. Raises ConfigError if there is no run to compare.
    """
    runs = [run for run in runs if run.history or "fedsmu.error" in run.tags]
    if not runs:
        raise ConfigError([f"{name}: no run with evaluated rounds in MLflow at {cut(uri)}"])
    recipe = parent.config if parent else ""
    plain = read_yaml_text(recipe, name) if recipe else {}
    tune: TuneConfig = parse_section("tune", plain.get("tune"))
    tags = parent.tags if parent else {}
    facts = {"data digest": tags.get("fedsmu.data_digest", ""), **_origin(tags)}
    has_validation = any(VALIDATED in own for run in runs for own in run.history.values())
    if has_validation and not parent:
        tune = replace(tune, metric=VALIDATED)
    if has_validation and parent and TESTED in parent.metrics:
        facts["test accuracy of the best setting"] = f"{100 * parent.metrics[TESTED]:.2f} %"
    versions = {k.removeprefix(VERSION): v for k, v in tags.items() if k.startswith(VERSION)}
    source = f"MLflow at {cut(uri)}, {f'run {parent.run_id}' if parent else 'experiment ' + name}"
    rows = rows_of(runs, tune.primary, swept_keys(tune))
    title = parent.name if parent else name
    return report_of(
        title,
        source,
        tune,
        rows,
        has_validation=has_validation,
        is_final=False,  # runs have no results on the test set where there are validation samples
        versions=versions,
        facts=facts,
        recipe=recipe,
        targets=targets or _targets(plain),
    )


def report_sweep(
    config: Config, records: SweepFolder, outcome: Mapping[str, Any], tracker: Tracker, parent: str
) -> str | None:
    """Write the report of a sweep that ends into its folder, and log it with the sweep's run.

    outcome: of the sweep, as far as it is known. parent: the sweep's run. Returns the path of the
    report. A failure is a warning: None.
    """
    folder, recipe = records.path, config.anywhere().to_yaml()
    try:
        from fedsmu_ray.reports.writing import write_report

        known = {**outcome, "tracking_uri": tracker.uri}
        report = _of_records(config.to_dict(), config.tune, recipe, records, known)
        file, text = write_report(report, folder)
    except KeyboardInterrupt:  # all but the report is done, and what follows takes no time
        log.warning("interrupted: the report is not written")
        return None
    except Exception as error:  # of many types: the libraries that draw may be missing or broken
        log.warning(
            "%s: the report is not written (%s: %s); python -m fedsmu_ray.report %s tries again",
            folder,
            type(error).__name__,
            " ".join(str(error).split())[:200],
            shlex.quote(str(folder)),
        )
        return None
    tracker.log_file(parent, NewFile(file.name, text, str(file)))
    return str(file)
