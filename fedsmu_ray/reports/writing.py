"""Writes a report: the page, and beside it the figures and tables as files.

report.html               the page
report/FIGURE.pdf, .png   the figures: accuracy, to_target, front, swept, uniformity,
                                failures
report/TABLE.csv, .md, .tex   the tables: settings, to_target, trials
"""

from __future__ import annotations

from fedsmu_ray.files.folders import write
from fedsmu_ray.files.remote import Place
from fedsmu_ray.reports import charts, front, static, swept, tables
from fedsmu_ray.reports.data import Report
from fedsmu_ray.reports.page import FOLDER, page

PAGE = "report.html"
FIGURES = (
    charts.accuracy,
    charts.to_target,
    front.chart,
    swept.chart,
    charts.uniformity,
    charts.failures,
)
FIGURE_NAMES = ("accuracy", "to_target", "front", "swept", "uniformity", "failures")
TABLE_NAMES = ("settings", "to_target", "trials")
TABLES = (tables.settings, tables.to_target, tables.trials)
FORMATS = {"csv": tables.to_csv, "md": tables.to_markdown, "tex": tables.to_latex}
POSSIBLE = {f"{FOLDER}/{name}.{suffix}" for name in FIGURE_NAMES for suffix in ("pdf", "png")}
POSSIBLE |= {f"{FOLDER}/{name}.{suffix}" for name in TABLE_NAMES for suffix in FORMATS}


def render(report: Report) -> dict[str, str | bytes]:
    """The files of a report: their contents by path."""
    drawn = [chart for make in FIGURES if (chart := make(report))]
    images = {chart.name: static.draw(chart) for chart in drawn}
    made = [make(report) for make in TABLES]
    vector = {name: image["svg"] for name, image in images.items()}
    found: dict[str, str | bytes] = {PAGE: page(report, drawn, vector, made)}
    for name, image in images.items():
        found |= {f"{FOLDER}/{name}.{suffix}": image[suffix] for suffix in ("pdf", "png")}
    for table in made:
        if table.rows():
            found |= {
                f"{FOLDER}/{table.name}.{s}": to_text(table) for s, to_text in FORMATS.items()
            }
    return found


def write_report(report: Report, folder: Place) -> tuple[Place, str]:
    """Write a report into a folder, in place of an earlier one; returns its page and the text.

    Raises OSError if it cannot be written, and ImportError without Plotly or matplotlib.
    """
    contents = render(report)
    (folder / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, content in contents.items():
        inside, _, name = path.rpartition("/")
        write(folder / inside / name if inside else folder / name, content)
    for path in POSSIBLE - set(contents):  # of an earlier report
        (folder / FOLDER / path.removeprefix(f"{FOLDER}/")).unlink(missing_ok=True)
    return folder / PAGE, str(contents[PAGE])
