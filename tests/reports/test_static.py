"""Figures for paper."""

import io
import xml.etree.ElementTree as xml

import numpy as np
import pytest
from PIL import Image

from fedsmu_ray.reports import charts, static, swept
from tests.helpers.reports import history, report, trial, two_methods


def test_a_figure_is_a_pdf_a_png_and_an_svg_and_always_the_same():
    chart = charts.accuracy(two_methods())
    drawn = static.draw(chart)
    assert drawn["pdf"].startswith(b"%PDF") and b"/Type3" not in drawn["pdf"]
    image = Image.open(io.BytesIO(drawn["png"])).convert("RGB")
    assert image.width == 7 * static.DPI
    colors = {tuple(pixel) for pixel in np.unique(np.asarray(image).reshape(-1, 3), axis=0)}
    for style in chart.legend:
        assert tuple(bytes.fromhex(style.color[1:])) in colors
    xml.fromstring(drawn["svg"])
    assert static.draw(chart) == drawn


def test_text_with_the_marks_of_formulas_is_drawn_as_it_is():
    trials = [trial(i, 0.5, name__="$x_1$ $y$", local__lr=lr) for i, lr in enumerate((0.1, 0.2))]
    chart = charts.accuracy(report(trials))
    assert "$x_1$" in chart.legend[0].label
    static.draw(chart)


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_any_number_of_panels_fits(count):
    trials = [
        trial(i, 0.1 + i / 50, f"fed{i % count}", local__lr=1.0 + i) for i in range(2 * count)
    ]
    trials[0] = {**trials[0], "score": None}
    static.draw(swept.chart(report(trials)))
    past = history(**{"test/accuracy": [0.0, None, None, None]})  # a line of one point
    static.draw(charts.accuracy(report([trial(0, 0.0, past=past)])))
    static.draw(charts.to_target(report(trials, targets=[0.01, 0.1, 0.12])))
