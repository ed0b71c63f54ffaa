"""Run each measurement in a fresh process, so that none affects the next."""

import json
import subprocess
import sys
from typing import Any


def apart(file: str, *arguments: Any) -> dict[str, Any]:
    """Run `python FILE --measure ARGUMENTS` and return the last JSON object it prints."""
    done = subprocess.run(
        [sys.executable, file, "--measure", json.dumps(arguments)], capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        sys.exit(f"{arguments} failed:\n{done.stderr[-2000:]}")
    return json.loads(lines[-1])
