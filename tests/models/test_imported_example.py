"""The code blocks of docs/your-own-model.md, run unchanged in a fresh process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_worked_example_runs(tmp_path):
    text = (DOCS / "your-own-model.md").read_text()
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", text, re.DOTALL))
    lines = [line for code in blocks.values() for line in code.splitlines() if line.strip()]
    assert len(lines) < 30
    (tmp_path / "mine.py").write_text(blocks["python"])
    (tmp_path / "mine.yaml").write_text(blocks["yaml"])
    command = [
        sys.executable,
        "-m",
        "fedsmu_ray.train",
        "--json",
        "mine.yaml",
        "compute.executor=inline",
        "tracking.uri=null",
    ]
    path = os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["dim"] == (3 * 9 + 1) * 16 + 2 * 16 + (16 * 16 + 1) * 4
    assert summary["test_accuracy"] > 0.4  # chance is 0.25
