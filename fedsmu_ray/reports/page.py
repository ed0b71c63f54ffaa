"""The report as one HTML file that needs no network: light or dark as the reader's system is.

It is printed, and read without JavaScript, with the figures for paper.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

from fedsmu_ray.display.settings_table import in_words
from fedsmu_ray.files.valid_json import to_json
from fedsmu_ray.reports import interactive
from fedsmu_ray.reports.charts import Chart, Style
from fedsmu_ray.reports.data import Report
from fedsmu_ray.reports.notes import notes
from fedsmu_ray.reports.tables import Table, to_html

# The page may load nothing from anywhere.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)
WITHOUT_SCRIPT = ".panels, .legend { display: none; } .static { display: block; }"
DASHES = ("", "8 4", "2 3", "8 3 2 3", "12 4", "12 4 2 4")  # of lines in a legend, in px
MAX_ROWS = 16  # of a table that is not folded
FOLDER = "report"  # beside the page


def page(
    report: Report, charts: Sequence[Chart], images: Mapping[str, bytes], tables: Sequence[Table]
) -> str:
    """The page; images: SVG by the name of a chart."""
    figures = {
        f"{chart.name}-{i}": interactive.draw(panel)
        for chart in charts
        for i, panel in enumerate(chart.panels)
    }
    body = [
        _head(report),
        *(_figure(chart, images[chart.name]) for chart in charts),
        *(_table(table) for table in tables if table.rows()),
        _reproduction(report),
    ]
    own = files("fedsmu_ray.reports")
    css, js = ((own / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # "<" only occurs in strings of JSON, so it can be escaped: no text ends the script.
    data = to_json(figures).replace("<", "\\u003c")
    title = escape(f"{report.name}: report")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{css}</style>
<noscript><style>{WITHOUT_SCRIPT}</style></noscript>
</head>
<body>
<main>
{"".join(body)}</main>
<script type="application/json" id="figures">{data}</script>
<script>{_plotly()}</script>
<script>
{js}</script>
</body>
</html>
"""


def _plotly() -> str:
    """plotly.js, as the package Plotly has it."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _head(report: Report) -> str:
    found = []
    for finding in report.findings:
        first, *lines = in_words(finding).splitlines()
        found.append(f'<div class="finding"><strong>{escape(first)}</strong>{_list(lines)}</div>\n')
    count, trials = len(report.settings), len(report.trials)
    methods = ", ".join(report.methods())
    summary = f"{_count(count, 'setting')} and {_count(trials, 'trial')}"
    summary += f" of {methods}" if methods else ""
    return (
        f"<header>\n<h1>{escape(report.name)}</h1>\n"
        f'<p class="soft">{escape(summary)}, ranked by {escape(report.metric)}; accuracies are on '
        f"the {report.set_name} set.</p>\n{''.join(found)}{_list(notes(report), 'soft')}</header>\n"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _list(lines: Iterable[str], kind: str = "") -> str:
    items = "".join(f"<li>{escape(line.strip())}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>\n' if items else ""


def _figure(chart: Chart, image: bytes) -> str:
    panels = "".join(
        f'<div class="panel" id="{chart.name}-{i}"></div>' for i in range(len(chart.panels))
    )
    encoded = base64.b64encode(image).decode()
    return (
        f"<section>\n<h2>{escape(chart.title)}</h2>\n<figure>\n"
        f'<div class="panels">{panels}</div>\n{_legend(chart.legend)}'
        f'<img class="static" alt="{escape(chart.title)}" '
        f'src="data:image/svg+xml;base64,{encoded}">\n'
        f"<figcaption>{escape(chart.caption)} {_files(chart.name, ('pdf', 'png'))}</figcaption>\n"
        "</figure>\n</section>\n"
    )


def _legend(styles: Sequence[Style]) -> str:
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-setting="{escape(style.label)}">'
        f'<svg width="34" height="8" aria-hidden="true"><line x1="0" y1="4" x2="34" y2="4" '
        f'stroke="{style.color}" stroke-width="2.5" stroke-dasharray="{DASHES[style.dash]}"/></svg>'
        f"{escape(style.label)}</button>"
        for style in styles
    )
    return f'<div class="legend">{buttons}</div>\n' if buttons else ""


def _table(table: Table) -> str:
    caption = f"{escape(table.caption)} {_files(table.name, ('csv', 'md', 'tex'))}"
    body = f'<p class="soft">{caption}</p>\n<div class="scroll">\n{to_html(table)}\n</div>\n'
    title = escape(table.title)
    if len(table.rows()) <= MAX_ROWS:
        return f"<section>\n<h2>{title}</h2>\n{body}</section>\n"
    return (
        f"<section>\n<h2>{title}</h2>\n<details><summary>{len(table.rows())} rows</summary>\n"
        f"{body}</details>\n</section>\n"
    )


def _files(name: str, suffixes: Sequence[str]) -> str:
    """Where the files of a figure or table are; the page may have been moved, so no links."""
    return f"<code>{FOLDER}/{name}.{{{', '.join(suffixes)}}}</code>"


def _reproduction(report: Report) -> str:
    facts = {"results": report.source, **report.facts, **report.versions}
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items() if v)
    recipe = (
        f"<details><summary>Configuration</summary>\n<pre>{escape(report.recipe)}</pre></details>\n"
        if report.recipe
        else ""
    )
    return f"<section>\n<h2>Reproduction</h2>\n<dl>{listed}</dl>\n{recipe}</section>\n"
