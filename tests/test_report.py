"""The command that writes a report, and the report in a real browser, where there is one."""

import json
import re
import shutil
import subprocess

import pytest

from fedsmu_ray import report
from fedsmu_ray.reports.writing import write_report
from tests.helpers.reports import two_methods
from tests.sweeps.test_reporting import run_sweep

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's own, of its database layer
    pytest.mark.usefixtures("keep_signal_handlers"),
]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,2400"]
FLAGS += ["--virtual-time-budget=20000", "--disable-background-networking"]


def test_command_reports_the_latest_sweep_and_that_of_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fedsmu_runs").mkdir()
    for name in ("small-20260102-000000-1", "other-20260101-000000-1"):
        run_sweep(tmp_path / "fedsmu_runs" / name)
    assert report.main(["-o", "out", "--target", "0.5"]) == 0
    out = capsys.readouterr().out
    assert (
        out.splitlines()[0] == "out/report.html"
        and "50 % test accuracy" in (tmp_path / "out" / "report.html").read_text()
    )
    assert "fedsmu_runs/small-20260102-000000-1" in (tmp_path / "out" / "report.html").read_text()
    folder = tmp_path / "fedsmu_runs" / "other-20260101-000000-1"
    (folder / "report.html").unlink()
    assert report.main([str(folder)]) == 0
    assert (folder / "report.html").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "fedsmu_runs: there is no folder of a sweep in it; run `tune` first"),
        (["nothing"], "nothing: there is no such folder"),
        (["."], ".: not the folder of a sweep (no sweep.yaml in it)"),
        (["--run", "1"], "mlflow.db': there is no such database"),
    ],
)
def test_a_wrong_folder_is_named_with_the_cure(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert report.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_target_is_a_share(capsys):
    with pytest.raises(SystemExit):
        report.main(["--target", "95"])
    assert "95: expected a share, such as 0.95 for 95 %" in capsys.readouterr().err


# Tells in the title what the page has loaded, and what the browser has kept it from loading.
WATCH = """<script>
const refused = [];
document.addEventListener("securitypolicyviolation", (e) => refused.push(e.blockedURI));
addEventListener("load", () => setTimeout(() => {
  const loaded = performance.getEntriesByType("resource").map((e) => e.name.slice(0, 40));
  document.title = JSON.stringify({ loaded, refused, lines: count() });
  document.querySelector(".legend button").click();
  document.title += " " + count();
}, 1000));
function count() { return document.querySelectorAll(".trace.scatter").length; }
</script>"""


def shown(tmp_path, text, *flags):
    """What the browser writes to stdout for a page."""
    (tmp_path / "shown.html").write_text(text)
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path}/browser", *flags]
    command.append((tmp_path / "shown.html").as_uri())
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_browser_draws_the_figures_without_the_network_and_hides_a_setting(tmp_path):
    _, text = write_report(two_methods(), tmp_path)
    dom = shown(tmp_path, text.replace("<head>", f"<head>{WATCH}"), "--dump-dom")
    plots = re.findall(r'class="panel[^"]*" id="(\w+-\d)"[^>]*><div class="plot-container', dom)
    names = ["accuracy-0", "accuracy-1", "accuracy-2", "to_target-0", "to_target-1", "swept-0"]
    assert plots == [*names, "uniformity-0"] and "bytes to 80 %" in dom
    found, after = re.search(r"<title>(\{.*\}) (\d+)</title>", dom).groups()
    found = json.loads(found.replace("&quot;", '"'))
    assert found["refused"] == [] and all(url.startswith("data:") for url in found["loaded"])
    # Of the setting that was clicked, there was a line with its band in four panels, and points.
    assert found["lines"] - int(after) == 4 * 2 + 3
    buttons = re.findall(r'<button type="button" aria-pressed="(\w+)"', dom)
    assert buttons == ["false", "true", "true"] * 2


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_browser_prints_it_with_the_figures_for_paper(tmp_path):
    _, text = write_report(two_methods(), tmp_path)
    pdf = tmp_path / "printed.pdf"
    shown(tmp_path, text, f"--print-to-pdf={pdf}")
    assert pdf.read_bytes().startswith(b"%PDF") and pdf.stat().st_size > 50_000
