"""Saved views of MLflow's UI: the charts, columns and groups by which a sweep is compared.

One view has the settings, as groups of runs; another one the runs themselves, in the colors of
their methods, with parallel coordinates of the swept keys, which MLflow does not draw of groups.
MLflow keeps such a view, which its "Share" button makes, as a tag of the experiment; a link names
it. The format is MLflow's own (3.x, seen in 3.17) and not documented.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import Any

from fedsmu_ray.tracking.base import View
from fedsmu_ray.tracking.metrics import BY_BYTES

TAG = "mlflow.sharedViewState."  # and the key of a view
SWEEP_VIEW = "fedsmu-"  # begins the key of the view of a sweep's settings
RUNS_VIEW = "fedsmu_runs-"  # and of that of its runs
SECTION = "fedsmu"
MAX_RUNS = 100  # in a chart
COLUMNS = ("final/uplink_bytes", "final/downlink_bytes", "final/seconds")


def link(experiment_id: str, key: str | None) -> str:
    """The part of a URL after the server that opens a view; without a key, the list of runs."""
    runs = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    return f"{runs}&compareRunsMode=CHART&viewStateShareKey={key}" if key else runs


def view_tags(view: View, parent: str) -> dict[str, str]:
    """The tags of the experiment that are the views; parent: id of the sweep's run in the store."""
    settings = _state(view, parent)
    runs = {**settings, "groupBy": None, "useGroupedValuesInCharts": False}
    runs["compareRunCharts"] = _numbered([_parallel(view), *_lines(view)])
    return {
        f"{TAG}{SWEEP_VIEW}{key_of(parent)}": _encoded(view.name, settings),
        f"{TAG}{RUNS_VIEW}{key_of(parent)}": _encoded(f"{view.name}: runs", runs),
    }


def key_of(parent: str) -> str:
    """What ends the keys of the views of a sweep; parent: id of its run in the store."""
    return parent[:12]


def _encoded(name: str, state: dict[str, Any]) -> str:
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    made = int(time.time() * 1000)
    return json.dumps(
        {"name": name, "createdAt": made, "updatedAt": made, "state": f"deflate;{packed}"}
    )


def made_at(tag: str) -> int:
    """When a view was made, in milliseconds since the epoch, from the value of its tag."""
    return int(json.loads(tag)["createdAt"])


def _state(view: View, parent: str) -> dict[str, Any]:
    columns = [f"params.`{key}`" for key in ("algorithm.name", *view.params, "seed")]
    columns += [f"metrics.`{metric}`" for metric in (_final(view), *COLUMNS)]
    group = {"mode": "tag", "groupByData": view.group}
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        "orderByKey": f"metrics.`{_final(view)}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(dict.fromkeys(columns)),
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": _numbered([*_lines(view), _scatter(view)]),
        "compareRunSections": [
            {
                "uuid": SECTION,
                "name": "Accuracy for bytes",
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
            }
        ],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [group]},
        "groupsExpanded": {},
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }


def _final(view: View) -> str:
    """The metric with the accuracy after the last round, as in `metrics.final_metrics`."""
    return "final/" + view.accuracy.replace("/", "_")


def _numbered(charts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"uuid": f"{SECTION}-{i}", **chart} for i, chart in enumerate(charts)]


def _lines(view: View) -> list[dict[str, Any]]:
    upload, total = (f"{view.accuracy}{suffix}" for suffix in BY_BYTES)
    return [
        _line("accuracy over uploaded kB (log)", upload, "log"),
        _line("accuracy over total kB, up and down (log)", total, "log"),
        _line("accuracy over rounds", view.accuracy, "linear"),
    ]


def _scatter(view: View) -> dict[str, Any]:
    return {
        **_chart("SCATTER", "accuracy for uploaded bytes"),
        "xaxis": {"key": "final/uplink_bytes", "type": "METRIC"},
        "yaxis": {"key": _final(view), "type": "METRIC"},
        "tooltipDataKeys": [],
    }


def _parallel(view: View) -> dict[str, Any]:
    return {
        **_chart("PARALLEL", "swept keys"),
        "selectedParams": list(view.params),
        "selectedMetrics": ["final/uplink_bytes", _final(view)],
        "showAllRuns": True,
    }


def _chart(kind: str, name: str) -> dict[str, Any]:
    return {
        "type": kind,
        "displayName": name,
        "runsCountToCompare": MAX_RUNS,
        "metricSectionId": SECTION,
        "deleted": False,
        "isGenerated": False,
    }


def _line(name: str, metric: str, x_scale: str) -> dict[str, Any]:
    return {
        **_chart("LINE", name),
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisScaleType": x_scale,
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
    }
