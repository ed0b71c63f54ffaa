"""Rounds on demand: how `matrix.py` lets programs take turns, over their standard streams.

`matrix.py` writes the cohort of a round to a program's standard input, and reads the seconds that
the round took from its standard output; both are lines of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator


def turns() -> Iterator[list[int]]:
    """The cohort of one round after another.

    What the program does until it asks for the next one is timed. What libraries print to standard
    output goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        cohort = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        yield cohort
        taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(taken), file=answers, flush=True)
