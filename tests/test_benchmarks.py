"""The matrix of benchmarks runs, and its programs do the same work."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(
    not FOLDER.exists(), reason="there are no benchmarks in a source distribution"
)
ROW = "linear equal 500x60 b50 c10 e1 fedsmu"


def test_a_row_of_the_matrix():
    command = [sys.executable, str(FOLDER / "matrix.py"), "--rows", ROW, "--seconds", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    name, blocks, ours, plain, by_cpu, _ = done.stdout.splitlines()[2].strip("| ").split(" | ")
    assert name == ROW and blocks.startswith("3 x ")
    assert float(ours) > 0 and float(plain) > 0
    middle, low, high = map(float, re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", by_cpu).groups())
    assert 0 < low <= middle <= high
    assert done.stdout.endswith(f"1 rows: lowest {middle:.2f}, median {middle:.2f}\n")


def test_equal_work(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import matrix
    import run_plain
    from workloads import Workload

    for method in ("fedavg", "fedsmu"):
        row = Workload("linear", "lognormal", 999, 4, method, clients=6)
        matrix.check_equal_work(row)
    monkeypatch.setattr(run_plain, "GAMMA1", 1.1 * run_plain.GAMMA1)
    matrix.check_equal_work.cache_clear()
    with pytest.raises(SystemExit, match="the models differ"):
        matrix.check_equal_work(row)
