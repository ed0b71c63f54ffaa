"""The commands of this package as processes."""

import contextlib
import os
import subprocess
import sys

from fedsmu_ray import environment


@contextlib.contextmanager
def command(folder, module, *arguments):
    """A command in a folder, which is killed at the end of the block if it is still alive."""
    # What tests have had this package set here, a command would take for set by the user.
    ours = environment._set_here
    kept = {name: value for name, value in os.environ.items() if ours.get(name) != value}
    process = subprocess.Popen(
        [sys.executable, "-m", f"fedsmu_ray.{module}", *arguments],
        cwd=folder,
        env=kept,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.stdout.close()  # which processes that it has started may still hold
        process.stderr.close()
        process.wait()
