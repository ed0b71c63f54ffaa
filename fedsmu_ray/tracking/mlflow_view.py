"""A saved view of MLflow's UI: the charts, columns and groups by which a sweep is compared.

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
SWEEP_VIEW = "fedsmu-"  # begins the key of a sweep's view
SECTION = "fedsmu"
MAX_RUNS = 100  # in a chart
COLUMNS = ("final/uplink_bytes", "final/downlink_bytes", "final/seconds")


def link(experiment_id: str, key: str | None) -> str:
    """The part of a URL after the server that opens a view; without a key, the list of runs."""
    runs = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    return f"{runs}&compareRunsMode=CHART&viewStateShareKey={key}" if key else runs


def encode(view: View, parent: str) -> str:
    """The value of the tag of a view; parent: id of the sweep's run in the store."""
    packed = base64.b64encode(zlib.compress(json.dumps(_state(view, parent)).encode(), 9)).decode()
    made = int(time.time() * 1000)
    tag = {"name": view.name, "createdAt": made, "updatedAt": made, "state": f"deflate;{packed}"}
    return json.dumps(tag)


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
        "compareRunCharts": _charts(view),
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


def _charts(view: View) -> list[dict[str, Any]]:
    upload, total = (f"{view.accuracy}{suffix}" for suffix in BY_BYTES)
    charts = [
        _line("accuracy over uploaded kB (log)", upload, "log"),
        _line("accuracy over total kB, up and down (log)", total, "log"),
        _line("accuracy over rounds", view.accuracy, "linear"),
        {
            **_chart("SCATTER", "accuracy for uploaded bytes"),
            "xaxis": {"key": "final/uplink_bytes", "type": "METRIC"},
            "yaxis": {"key": _final(view), "type": "METRIC"},
            "tooltipDataKeys": [],
        },
    ]
    return [{"uuid": f"{SECTION}-{i}", **chart} for i, chart in enumerate(charts)]


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
