"""The Pareto front of a sweep by several metrics as a figure."""

from fedsmu_ray.reports import front, static, tables
from tests.helpers.reports import report, trial, two_methods


def by_two_metrics():
    points = ((0.9, 50_000), (0.8, 10_000), (0.7, 60_000))
    trials = [
        {**trial(i, level, local__lr=i), "uplink_bytes": upload}
        for i, (level, upload) in enumerate(points)
    ]
    return report(trials, metric=("test/accuracy", "comm/uplink_bytes"))


def test_settings_are_points_and_those_of_the_front_are_filled_and_joined():
    chart = front.chart(by_two_metrics())
    (panel,) = chart.panels
    *points, joined = panel.lines
    assert [(p.x[0], round(p.y[0]), p.filled) for p in points] == [
        (50_000, 90, True),
        (10_000, 80, True),
        (60_000, 70, False),
    ]
    assert list(joined.x) == [10_000, 50_000] and not joined.points
    assert panel.x.is_log and panel.y.label == "test/accuracy (%)"
    assert static.draw(chart)["png"].startswith(b"\x89PNG")


def test_the_table_marks_the_front():
    assert tables.settings(by_two_metrics()).columns["Pareto front"] == ["yes", "yes", "–"]


def test_a_sweep_by_one_metric_has_no_front():
    assert front.chart(two_methods()) is None and front.chart(report([])) is None
    assert "Pareto front" not in tables.settings(two_methods()).columns
