"""The benchmarks run, and the programs of the matrix do the same work."""

import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(
    not FOLDER.exists(), reason="there are no benchmarks in a source distribution"
)
ROW = "linear equal 500x60 b50 c10 e1 fedsmu"


@pytest.fixture
def matrix(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("matrix")


def test_a_row_of_the_matrix(matrix, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["matrix.py", "--rows", ROW, "--seconds", "0"])
    matrix.main()
    printed = capsys.readouterr().out
    name, blocks, ours, plain, by_cpu, _ = printed.splitlines()[2].strip("| ").split(" | ")
    assert name == ROW and blocks.startswith("3 x ")
    assert float(ours) > 0 and float(plain) > 0
    middle, low, high = map(float, re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", by_cpu).groups())
    assert 0 < low <= middle <= high
    assert printed.endswith(f"inline: 1 rows, lowest {middle:.2f}, median {middle:.2f}\n")


def test_equal_work(matrix, monkeypatch):
    rows = [
        matrix.Workload("linear", "lognormal", 999, 4, method, clients=6)
        for method in ("fedavg", "fedsmu")
    ]
    for row in rows:
        matrix.check_equal_work(row)
    matrix.check_equal_work.cache_clear()
    monkeypatch.setattr("run_plain.GAMMA1", 0.0165)
    with pytest.raises(SystemExit, match="the models differ"):
        matrix.check_equal_work(rows[1])


def has_lstm_in_bfloat16():
    try:
        with torch.autocast("cpu", torch.bfloat16):
            torch.nn.LSTM(8, 256, 2)(torch.zeros(3, 4, 8))
    except RuntimeError:
        return False
    return True


@pytest.mark.slow
def test_an_error_in_a_block_of_the_gpu_benchmark_loses_no_other(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    gpu, out = import_module("gpu"), tmp_path / "rows.jsonl"
    monkeypatch.setitem(gpu.BLOCKS, "missing", None)  # in this process alone
    arguments = ["gpu.py", "missing", "models", "copies", "--device", "cpu", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    gpu.main()
    _, failed, *rows = map(json.loads, out.read_text().splitlines())
    assert failed["block"] == "missing" and failed["ended by"] == "exit status 1"
    models = [rows.pop(0) for _ in range(17)]  # of four models, two precisions, one client or three
    assert {row["block"] for row in models} == {"models"}
    failures = {(row["name"], row["precision"]) for row in models if "error" in row}
    # oneDNN has no LSTM in bfloat16 for CPUs without AVX-512.
    assert failures == (set() if has_lstm_in_bfloat16() else {("char_lstm", "bfloat16")})
    assert [row["block"] for row in rows] == ["copies"] * 5 and all(
        row["ms"] > 0 for row in rows[:4]
    )
