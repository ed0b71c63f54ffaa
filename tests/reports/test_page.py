"""The page of a report as text; tests/test_report.py shows it in a browser."""

import re
from dataclasses import replace

from fedsmu_ray.reports import charts, static, tables
from fedsmu_ray.reports.page import POLICY, page
from tests.helpers.reports import report, trial, two_methods


def made(found):
    drawn = [chart for chart in (charts.accuracy(found),) if chart]
    images = {chart.name: static.draw(chart)["svg"] for chart in drawn}
    return page(found, drawn, images, [tables.settings(found), tables.trials(found)])


def without_plotly(text):
    """The page without plotly.js, which has all kinds of text in it."""
    return re.sub(r"<script>/\*\*.*?</script>", "", text, flags=re.DOTALL)


def test_a_page_has_the_finding_figures_tables_and_what_reproduces_it():
    found = replace(two_methods(), versions={"torch": "2.14"}, facts={"data digest": "abc"})
    text = made(found)
    assert text.count("Plotly.react") == 1 and "plotly.js v" in text
    text = without_plotly(text)
    assert "<strong>80 % test accuracy (means of 3 seeds)</strong>" in text
    assert 'id="accuracy-0"' in text and 'src="data:image/svg+xml;base64,' in text
    assert "<dt>torch</dt><dd>2.14</dd>" in text and "<pre>name: small\n</pre>" in text
    assert "<dd>fedsmu_runs/small-1</dd>" in text and "abababababab" in text


def test_a_page_names_no_other_file_or_host():
    text = without_plotly(made(two_methods()))
    assert f'content="{POLICY}"' in text and "default-src 'none'" in POLICY
    assert not re.search(r'(src|href)="(?!data:)', text) and "http" not in text.replace(
        "http-equiv", ""
    )


def test_all_text_is_escaped():
    evil = "</script><img src=x onerror=alert(1)>"
    found = report([trial(0, 0.5, evil), trial(1, 0.4, local__lr=evil)], name=evil, recipe=evil)
    found = replace(found, versions={evil: evil}, no_result=[])
    text = made(found)
    assert evil not in text and "<img src=x" not in text
    assert text.count("</script>") == 3


def test_without_any_result_there_is_a_page_that_says_so():
    failed = [{"index": 0, "name": "000", "status": "failed", "error": "ClientError: <x>"}]
    text = without_plotly(made(replace(report([]), no_result=failed)))
    assert "No trial has a result" in text and "ClientError: &lt;x&gt;" in text
    assert "<table>" in text
