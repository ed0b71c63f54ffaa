"""What figures show."""

import pytest

from fedsmu_ray.reports import charts
from tests.helpers.reports import history, report, trial, two_methods


def test_accuracy_over_rounds_uploaded_and_all_bytes():
    chart = charts.accuracy(two_methods())
    rounds, uploaded, total = chart.panels
    assert [len(panel.lines) for panel in chart.panels] == [3, 3, 3]
    by_label = {line.style.label: line for line in uploaded.lines}
    assert by_label["fedsmu gamma1=0.01"].x == [20_000, 40_000, 60_000, 80_000]
    assert by_label["fedavg lr=0.3"].x[-1] == 8 * 320_000 and uploaded.x.is_log
    assert by_label["fedavg lr=0.3"].y[-1] == pytest.approx(81)  # percent
    assert by_label["fedavg lr=0.3"].low is not None and not rounds.x.is_log
    assert total.lines[0].x[-1] > uploaded.lines[0].x[-1]
    assert "95 % intervals of the mean (t) over 3 seeds" in chart.caption
    colors = {label: line.style.color for label, line in by_label.items()}
    assert colors["fedsmu gamma1=0.01"] == colors["fedsmu gamma1=0.03"] != colors["fedavg lr=0.3"]
    looks = {(line.style.color, line.style.dash) for line in uploaded.lines}
    assert len(looks) == 3


def test_more_settings_than_line_styles_differ_in_the_shade():
    found = charts.styles(report([trial(i, 0.5, local__lr=i) for i in range(8)]))
    assert len({(style.color, style.dash) for style in found.values()}) == 8
    assert [style.dash for style in found.values()] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert found["fedsmu lr=6"].color == "#66aad1"  # 0072b2, four tenths of the way to white


def test_bytes_and_rounds_to_a_target_from_the_least_upload_on():
    chart = charts.to_target(two_methods())
    sent, rounds = chart.panels
    assert sent.x.label == "bytes to 80 %" and sent.rows[-1] == "fedavg lr=0.3"
    assert [line.filled for line in sent.lines] == [True] * 3 + [False] * 3
    assert rounds.lines[-1].x == [8] and rounds.rows == sent.rows
    assert charts.to_target(report([trial(0, 0.0), trial(1, 0.0, "fedavg")])) is None


def test_missing_uploads_and_retries_are_drawn_if_there_are_any():
    assert charts.failures(two_methods()) is None
    past = history(**{"clients/dropped": [None, 1, 2, 5]})
    chart = charts.failures(report([trial(0, past=past), trial(1, local__lr=0.2)]))
    (panel,) = chart.panels
    assert [(line.x, line.y) for line in panel.lines] == [([4, 6, 8], [1, 2, 5])]
    past["clients/retried"] = [3, 3, 3, 3]
    _, retried = charts.failures(report([trial(0, past=past)])).panels
    assert retried.y.label == "clients trained again" and retried.lines[0].y == [3] * 4


@pytest.mark.parametrize("past", [{}, {"round": []}, history(**{"test/accuracy": [None] * 4})])
def test_without_rounds_there_is_no_figure(past):
    found = report([trial(0, past=past)])
    assert charts.accuracy(found) is None and charts.to_target(found) is None


@pytest.mark.parametrize(
    "values, texts",
    [
        ([2.8e5, 2e8], ["1 MB", "10 MB", "100 MB"]),
        ([9e6, 4e8], ["10 MB", "30 MB", "100 MB", "300 MB"]),
        ([1e6], ["900 kB", "1 MB"]),
        ([1.0, 1e12], ["1 B", "1 kB", "1 MB", "1 GB", "1 TB"]),
        ([], []),
    ],
)
def test_ticks_of_bytes_are_few_and_round(values, texts):
    assert [text for _, text in charts.byte_ticks(values)] == texts
