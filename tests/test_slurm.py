"""clusters/slurm.sh on two machines, with Ray itself; of SLURM, only what the script calls."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.two_machines import ADDRESSES, ray_folder, two_machines

SCRIPT = Path(__file__).parent.parent / "clusters/slurm.sh"
RECIPE = {
    "data": {"clients": 8},
    "model": {"hidden": [4]},
    "federation": {"rounds": 2, "cohort": 4},
    "tracking": {"uri": None},
    "tune": {"space": {"local.lr": {"grid": [0.1, 0.2]}}},
}


@pytest.mark.slow
def test_a_sweep_on_all_nodes_of_a_job(tmp_path):
    bin_folder = tmp_path / "env/bin"
    bin_folder.mkdir(parents=True)
    with two_machines() as machines, ray_folder() as variables:
        # srun starts the command on every machine, and waits for all; each sees its own processes.
        own = 'unshare --pid --fork --kill-child --mount-proc bash -c \'"$@"; exit $?\' - "$@"'
        srun = "while [[ $1 == --* ]]; do shift; done\n" + "\n".join(
            f"ip netns exec {machine} {own} & pids+=($!)" for machine in machines
        )
        tools = {
            "srun": f'{srun}\nfor pid in "${{pids[@]}}"; do wait $pid || code=$?; done; exit $code',
            "scontrol": f"echo {ADDRESSES[0]}; echo {ADDRESSES[1]}",
            "ray": f'exec {sys.executable} -m ray.scripts.scripts "$@"',
            "python": f'exec {sys.executable} "$@"',
        }
        for name, lines in tools.items():
            (bin_folder / name).write_text(f"#!/bin/bash\ncode=0\n{lines}\n")
            (bin_folder / name).chmod(0o755)
        (bin_folder / "activate").write_text(f"PATH={bin_folder}:$PATH\n")
        (tmp_path / "my.yaml").write_text(json.dumps(RECIPE))
        job = {"FEDSMU_ENV": str(tmp_path / "env"), "SLURM_JOB_NODELIST": "both"}
        job |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "123", "SLURM_CPUS_PER_TASK": "1"}
        done = subprocess.run(
            ["bash", SCRIPT, "my.yaml", "--json"],
            cwd=tmp_path,
            env={**variables, **job, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=600,
        )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "(2 nodes, 2 CPUs)" in said, said
    (outcome,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(outcome["trials"]) == 2 and not outcome["failed"]
