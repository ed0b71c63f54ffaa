"""The tables of a report and their formats."""

import csv
import io

import pytest

from fedsmu_ray.reports import tables
from fedsmu_ray.reports.tables import Table
from tests.helpers.reports import report, trial, two_methods

CELLS = {"method": ["a|b_<i>", "c"], "x (%)": ["1 ± 2", "0"]}
SMALL = Table("t_1", "T", "A_b & c.", CELLS, [], best={"x (%)": 0})


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_settings_have_mean_interval_and_the_test_against_the_baseline():
    found = two_methods()
    table = tables.settings(found)
    (best, *_, last) = [dict(zip(table.columns, row, strict=True)) for row in table.rows()]
    assert best["method"] == "fedsmu" and best["gamma1"] == "0.03" and best["n"] == "3"
    row = found.settings[0]
    mean, half = 100 * row["test_accuracy"]["mean"], 100 * row["test_accuracy"]["ci95"]
    assert best["test accuracy (%)"] == f"{mean:.2f} ± {half:.2f}"
    assert best["p"] == f"{row['difference']['p']:.3f}" and best["difference"].startswith("+")
    assert last["method"] == "fedavg" and (last["gamma1"], last["p"]) == ("–", "–")
    assert table.best == {"test accuracy (%)": 0, "uploaded": 0}
    assert "difference of test/accuracy in percentage points to fedavg lr=0.3" in table.caption
    (first, *_) = read(tables.to_csv(table))
    assert float(first["test_accuracy_mean"]) == row["test_accuracy"]["mean"]
    assert float(first["p"]) == row["difference"]["p"] and first["algorithm.gamma1"] == "0.03"


def test_a_target_has_rounds_bytes_and_who_does_not_reach_it():
    trials = [trial(0, 0.9), trial(1, 0.5, "fedavg"), trial(2, 0.1, "fedavg", local__lr=9)]
    table = tables.to_target(report(trials, targets=[0.5]))
    assert table.rows() == [
        ("fedsmu", "50 %", "1 of 1", "6.0", "60 kB", "1", "1.86 MB"),
        ("fedavg", "50 %", "1 of 1", "8.0", "80 kB", "1.33", "2.48 MB"),
        ("fedavg lr=9", "50 %", "0 of 1", "–", "–", "–", "–"),
    ]
    assert read(tables.to_csv(table))[0]["total_bytes_mean"] == "1860000.0"
    assert tables.to_target(report([trial(0, 0.0)])).rows() == []


def test_every_trial_is_listed_with_its_model():
    table = tables.trials(two_methods())
    assert len(table.rows()) == 9 and table.rows()[4][:3] == ("4", "fedsmu gamma1=0.01", "1")
    assert table.columns["model SHA-256"][0] == "abababababab"
    assert read(tables.to_csv(table))[0]["model_sha256"] == "ab" * 32


@pytest.mark.parametrize("found", [report([]), report([{**trial(0), "score": None}])])
def test_without_results_tables_are_empty_or_have_dashes(found):
    for make in (tables.settings, tables.to_target, tables.trials):
        table = make(found)
        for write in (tables.to_csv, tables.to_markdown, tables.to_latex, tables.to_html):
            assert "nan" not in write(table).lower() and "None" not in write(table)


def test_markdown_latex_and_html_are_escaped():
    assert tables.to_markdown(SMALL).splitlines()[2:] == [
        "| method | x (%) |",
        "| --- | --: |",
        r"| a\|b\_\<i\> | **1 ± 2** |",
        "| c | 0 |",
    ]
    text = tables.to_latex(SMALL)
    assert r"\caption{A\_b \& c.}" in text and r"\begin{tabular}{lr}" in text
    assert r"a|b\_\textless{}i\textgreater{} & \textbf{1 $\pm$ 2} \\" in text
    assert r"c & 0 \\" in text
    assert r"\label{tab:t-1}" in text and r"x (\%)" in text
    assert text.index("toprule") < text.index("midrule") < text.index("bottomrule")
    assert tables.latex("a\\b{c}~^") == (
        r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}"
    )
    html = tables.to_html(SMALL)
    assert '<td class="text">a|b_&lt;i&gt;</td><td><strong>1 ± 2</strong></td>' in html
    assert "<td>0</td>" in html
