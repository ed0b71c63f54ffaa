"""Figures for a page, against the definition that Plotly has of them."""

import json

from plotly.graph_objects import Figure

from fedsmu_ray.files.valid_json import to_json
from fedsmu_ray.reports import charts, swept
from fedsmu_ray.reports.interactive import draw
from tests.helpers.reports import report, trial, two_methods


def test_every_panel_is_a_figure_of_plotly():
    found = two_methods()
    grid = [(0.1, 0.5), (0.1, 0.9), (1.0, 0.5)]
    pairs = [trial(i, i / 9, local__lr=lr, algorithm__beta1=b) for i, (lr, b) in enumerate(grid)]
    made = [charts.accuracy(found), charts.to_target(found), charts.uniformity(found)]
    made += [swept.chart(found), swept.chart(report(pairs))]
    kinds = set()
    for panel in (panel for chart in made for panel in chart.panels):
        figure = draw(panel)
        assert json.loads(to_json(figure)) == figure
        Figure(figure)  # raises for a property that plotly.js does not have
        kinds |= {trace["type"] for trace in figure["data"]}
    assert kinds == {"scatter", "heatmap"}


def test_a_line_has_its_band_and_bytes_a_logarithmic_axis_with_units():
    uploaded = draw(charts.accuracy(two_methods()).panels[1])
    band, line = uploaded["data"][:2]
    assert band["fill"] == "toself" and band["x"] == [*line["x"], *reversed(line["x"])]
    assert uploaded["layout"]["xaxis"]["type"] == "log"
    assert "100 kB" in uploaded["layout"]["xaxis"]["ticktext"]


def test_names_are_text_and_not_markup():
    found = report([trial(0, 0.5, "<b>x</b>"), trial(1, 0.4, "<b>x</b>", local__lr=0.2)])
    text = to_json([draw(panel) for panel in charts.accuracy(found).panels])
    assert "&lt;b&gt;x" in text and '"name": "<b>' not in text
