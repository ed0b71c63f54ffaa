"""The files of a report."""

import os

from fedsmu_ray.files.remote import place
from fedsmu_ray.reports.writing import POSSIBLE, write_report
from tests.helpers.reports import history, report, trial, two_methods

NAMES = {
    f"{name}.{s}" for name in ("settings", "to_target", "trials") for s in ("csv", "md", "tex")
}
NAMES |= {
    f"{n}.{s}" for n in ("accuracy", "to_target", "swept", "uniformity") for s in ("pdf", "png")
}


def test_a_report_is_a_page_with_figures_and_tables_beside_it(tmp_path):
    file, text = write_report(two_methods(), tmp_path / "new" / "folder")
    assert file == tmp_path / "new" / "folder" / "report.html" and file.read_text() == text
    assert {path.name for path in (file.parent / "report").iterdir()} == NAMES
    assert {f"report/{name}" for name in NAMES} < POSSIBLE
    assert os.stat(file).st_mode & 0o777 == 0o600


def test_a_new_report_leaves_no_figure_of_an_earlier_one(tmp_path):
    past = history(**{"clients/dropped": [1, 2, 3, 4]})
    write_report(report([trial(0, past=past)]), tmp_path)
    assert (tmp_path / "report" / "failures.pdf").exists()
    (tmp_path / "report" / "mine.pdf").touch()
    write_report(report([trial(0, past={})]), tmp_path)
    left = {path.stem for path in (tmp_path / "report").iterdir()}
    assert left == {"settings", "trials", "mine"}


def test_a_report_is_written_behind_a_uri(tmp_path):
    (tmp_path / "stored").mkdir()
    folder = place(f"local://{tmp_path}/stored")
    for _ in range(2):  # the second one takes the place of the first
        file, text = write_report(report([trial(0)]), folder)
        assert str(file) == f"local://{tmp_path}/stored/report.html"
    assert (tmp_path / "stored" / "report.html").read_text() == text
    assert (tmp_path / "stored" / "report" / "accuracy.pdf").exists()
