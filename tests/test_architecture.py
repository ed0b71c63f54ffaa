"""The import rules that keep the parts apart."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "fedsmu_ray"


def imports(path: Path) -> set[str]:
    """Every module the file imports, at any depth in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def importers(name: str) -> set[str]:
    return {
        str(p.relative_to(PACKAGE))
        for p in PACKAGE.rglob("*.py")
        if any(m == name or m.startswith(name + ".") for m in imports(p))
    }


def test_ray_and_mlflow_have_their_places():
    assert importers("ray") == {
        *(f"execution/{name}.py" for name in ("actors", "cluster", "processes")),
        *(f"sweeping/{name}.py" for name in ("fit", "plan", "trial", "book")),
    }
    assert importers("mlflow") == {"tracking.py"}
    assert importers("optuna") == {"sweeping/plan.py"}
    assert importers("numba") == {"kernels.py"}


def test_methods_know_codecs_and_local_training_at_most():
    allowed = tuple(
        f"fedsmu_ray.{name}"
        for name in ("codecs", "compressors", "local", "setting", "vector", "algorithms")
    )
    for path in (PACKAGE / "algorithms").glob("*.py"):
        own = {m for m in imports(path) if m.startswith("fedsmu_ray")}
        assert all(m.startswith(allowed) for m in own), path


def test_the_federation_knows_no_process():
    own = imports(PACKAGE / "federation.py")
    apart = (
        "fedsmu_ray.executors.ray_executor",
        "fedsmu_ray.executors.ray_cluster",
        "fedsmu_ray.executors.ray_actors",
        "fedsmu_ray.executors.inline",
        "fedsmu_ray.tracking",
        "fedsmu_ray.sweeps",
    )
    assert "fedsmu_ray.federation.tasks" in own and not {m for m in own if m.startswith(apart)}


def test_help_and_package_import_nothing_heavy():
    code = "import sys, fedsmu_ray, fedsmu_ray.train, fedsmu_ray.tune; print([m for m in ('torch', 'ray', 'mlflow', 'yaml') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_no_module_hides_a_name_of_the_python_api():
    import fedsmu_ray

    modules = {p.stem for p in PACKAGE.iterdir()}
    assert not modules & set(fedsmu_ray.__all__)
    assert all(callable(getattr(fedsmu_ray, name)) for name in fedsmu_ray.__all__)
