"""The documentation: files that it names exist, and the notebook runs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fedsmu_ray"
# docs/log.md is history: it may name files that have been renamed since.
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "log.md"),
]
# Files that the reader writes, or that a run or a sweep writes into its folder.
OTHER_FILES = {"my_method.py", "my_method.yaml", "mine.py", "mine.yaml"}
OTHER_FILES |= {"config.yaml", "sweep.yaml"}


def named_files(text):
    """Paths in backticks that end in .py, .md or .yaml; code blocks do not count."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return set(re.findall(r"`([\w./-]+\.(?:py|md|yaml))`", prose)) - OTHER_FILES


def is_here(name):
    """Whether a path exists below the root or the package, or a bare name in any of its folders."""
    if (ROOT / name).is_file() or (PACKAGE / name).is_file():
        return True
    return "/" not in name and any(PACKAGE.rglob(name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_named_in_backticks_exists(page):
    named = named_files(page.read_text(encoding="utf-8"))
    assert not [name for name in named if not is_here(name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_linked_file_exists(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_search_finds_paths_and_leaves_out_other_text():
    text = "`a/b.py` and `c d.py`, `e*.py`, mine.md, `f.yaml --x`, `docs/g.md`\n```\n`h.py`\n```\n"
    assert named_files(text) == {"a/b.py", "docs/g.md"}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter
def test_the_notebook_runs(tmp_path):
    """In a kernel of its own; what it shows is of the kinds that are stored in it."""
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    stored = [kinds(cell) for cell in notebook.cells]
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert [kinds(cell) for cell in notebook.cells] == stored
    assert {("text/html", "text/plain"), ("image/png", "text/plain")} <= {
        each for cell in stored for each in cell
    }


def kinds(cell):
    return [tuple(sorted(output.get("data", ["printed"]))) for output in cell.get("outputs", ())]
