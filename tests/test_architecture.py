"""The structure in docs/architecture.md: layers, no import cycles, one place for each library."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from fedsmu_ray.commands import COMMANDS

PACKAGE = Path(__file__).parent.parent / "fedsmu_ray"
FILES = sorted(PACKAGE.rglob("*.py"))

# A folder (or top-level module) imports only from itself and from those in the lines above its own.
LAYERS = [
    ["errors", "environment", "processes"],
    ["files", "numerics"],
    ["plugins", "cli"],
    ["objectives"],
    ["tracking"],
    ["wire"],
    ["datasets", "models"],
    ["algorithms"],
    ["config"],
    ["federation"],
    ["executors", "display"],
    ["experiment", "reports"],
    ["sweeps", "conformance", "cluster"],
    ["train", "tune", "evaluate", "report", "data", "ui", "commands"],
    ["__init__"],
    ["__main__"],
]
HEAVY = ("torch", "ray", "mlflow", "yaml", "numpy", "pydantic")
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


OWN = {".".join(("fedsmu_ray", *parts(p))).removesuffix(".__init__"): p for p in FILES}


def modules_imported(path: Path) -> set[str]:
    """All modules that a file imports, anywhere in the file.

    `from package import module` counts as an import of the module.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {whole if whole in OWN else node.module for whole in names.values()}
    return found


def files_imported(path: Path) -> set[Path]:
    """The files of this package that the file imports."""
    return {OWN[name] for name in modules_imported(path) if name in OWN} - {path}


def importers(name: str) -> set[str]:
    return {
        "/".join(parts(p))
        for p in FILES
        if any(m == name or m.startswith(f"{name}.") for m in modules_imported(p))
    }


def functions():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield path, node


def test_folders_import_only_from_the_layers_below():
    assert {parts(p)[0] for p in FILES} == set(LEVEL)
    for path in FILES:
        for other in files_imported(path):
            mine, theirs = parts(path)[0], parts(other)[0]
            assert mine == theirs or LEVEL[theirs] < LEVEL[mine], f"{path} imports {other}"


def test_no_import_cycles_between_files():
    TopologicalSorter({path: files_imported(path) for path in FILES}).prepare()  # raises CycleError


def test_few_modules_at_the_top():
    assert len(list(PACKAGE.glob("*.py"))) <= 12


@pytest.mark.parametrize(
    "library, places",
    [
        ("ray", ("executors/", "sweeps/", "cluster/")),
        ("mlflow", ("tracking/mlflow",)),
        ("tensorboard", ("tracking/tensorboard",)),
        ("wandb", ("tracking/wandb",)),
        ("optuna", ("sweeps/searcher",)),
        ("numba", ("numerics/kernels",)),
        ("matplotlib", ("reports/static", "sweeps/result", "data")),
        ("plotly", ()),  # only its plotly.js is used
        ("rich", ("display/", "datasets/images", "data")),
    ],
)
def test_each_library_has_its_place(library, places):
    assert all(name.startswith(places) for name in importers(library)), importers(library)


def test_methods_know_neither_processes_nor_bytes():
    for path in (PACKAGE / "algorithms").glob("*.py"):
        own = {m for m in modules_imported(path) if m.startswith("fedsmu_ray.")}
        assert not {m for m in own if m.startswith("fedsmu_ray.wire.message")}, path


def test_environment_variables_have_one_place():
    users = {"/".join(parts(p)) for p in FILES if "environ" in p.read_text(encoding="utf-8")}
    named = {u for u in users if "os.environ" in (PACKAGE / f"{u}.py").read_text(encoding="utf-8")}
    assert named == {"environment"}


def test_init_files_only_export():
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent in (PACKAGE, PACKAGE / "conformance"):
            continue  # export lazily, so that --help is quick
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            exported = isinstance(node, (ast.ImportFrom, ast.Assign))
            assert exported or isinstance(node, ast.Expr), f"{path}:{node.lineno}"


def test_functions_are_short():
    """A function body has at most 40 lines after formatting, without its docstring."""
    long = []
    for path, node in functions():
        body = node.body[1:] if ast.get_docstring(node) else node.body
        if body and body[-1].end_lineno - body[0].lineno + 1 > 40:
            long.append(f"{path.relative_to(PACKAGE)}: {node.name}")
    assert not long


def test_files_are_short():
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert not {str(p.relative_to(PACKAGE)): n for p, n in lengths.items() if n > 360}


def test_tests_mirror_the_tree():
    """The name of a test file follows from what it tests.

    For example, tests/wire/test_codecs*.py test wire/codecs.py. Tests of what tests share stand
    beside it.
    """
    tests = Path(__file__).parent
    about_the_whole = {"architecture", "benchmarks", "commands", "cluster_yaml", "docs", "slurm"}
    for path in tests.rglob("test_*.py"):
        tree = tests if path.parent.name == "helpers" else PACKAGE
        subject, folder = path.stem.removeprefix("test_"), tree / path.parent.relative_to(tests)
        modules = [p.stem for p in folder.glob("*.py")] + [folder.name]
        mine = [name for name in modules if subject == name or subject.startswith(f"{name}_")]
        assert mine or (folder == PACKAGE and subject in about_the_whole), path


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys; from fedsmu_ray.__main__ import main\n"
        f"try: main({[*command, '--help']})\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: " in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_no_module_hides_a_name_of_the_python_api():
    import fedsmu_ray

    modules = {p.stem for p in PACKAGE.iterdir()}
    assert not modules & set(fedsmu_ray.__all__)
    assert all(callable(getattr(fedsmu_ray, name)) for name in fedsmu_ray.__all__)
