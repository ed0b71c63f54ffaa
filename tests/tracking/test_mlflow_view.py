"""The saved views of a sweep: what is in their tags. How MLflow shows them: tests/test_ui.py."""

import base64
import json
import zlib

from fedsmu_ray.tracking.base import View
from fedsmu_ray.tracking.mlflow_view import key_of, link, made_at, view_tags

PARENT = "0123456789abcdef" * 2
VIEW = View("Sweep one", PARENT, ("local.lr", "algorithm.beta1"), "fedsmu.setting", "val/accuracy")


def states():
    tags = view_tags(VIEW, PARENT)
    assert list(tags) == [
        "mlflow.sharedViewState.fedsmu-0123456789ab",
        "mlflow.sharedViewState.fedsmu_runs-0123456789ab",
    ]
    packed = [json.loads(tag)["state"].removeprefix("deflate;") for tag in tags.values()]
    return [json.loads(zlib.decompress(base64.b64decode(each))) for each in packed]


def test_both_have_the_runs_of_the_sweep_only_and_fit_a_tag():
    for tag, state in zip(view_tags(VIEW, PARENT).values(), states()):
        assert state["searchFilter"] == f"tags.`mlflow.parentRunId` = '{PARENT}'"
        assert len(tag) < 5000 and made_at(tag) > 1e12


def test_one_has_groups_and_the_other_parallel_coordinates_of_the_swept_keys():
    settings, runs = states()
    (key,) = settings["groupBy"]["groupByKeys"]
    assert key["groupByData"] == "fedsmu.setting" and runs["groupBy"] is None
    kinds = [[chart["type"] for chart in state["compareRunCharts"]] for state in (settings, runs)]
    assert kinds == [["LINE", "LINE", "LINE", "SCATTER"], ["PARALLEL", "LINE", "LINE", "LINE"]]
    parallel = runs["compareRunCharts"][0]
    assert parallel["selectedParams"] == ["local.lr", "algorithm.beta1"]
    assert parallel["selectedMetrics"] == ["final/uplink_bytes", "final/val_accuracy"]


def test_charts_show_the_accuracy_of_the_sweep_over_kilobytes_on_a_logarithmic_axis():
    settings, _ = states()
    lines = settings["compareRunCharts"][:3]
    assert [(chart["metricKey"], chart["xAxisScaleType"]) for chart in lines] == [
        ("val/accuracy_by_upload_kB", "log"),
        ("val/accuracy_by_total_kB", "log"),
        ("val/accuracy", "linear"),
    ]
    assert settings["orderByKey"] == "metrics.`final/val_accuracy`"


def test_the_link_names_the_view():
    found = link("7", f"fedsmu-{key_of(PARENT)}")
    assert found.startswith("#/experiments/7/runs?workflowType=machine_learning&")
    assert found.endswith("&viewStateShareKey=fedsmu-0123456789ab")
