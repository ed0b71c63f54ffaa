"""The commands of this package as processes."""

import contextlib
import subprocess
import sys


@contextlib.contextmanager
def command(folder, module, *arguments):
    """A command in a folder, which is killed at the end of the block if it is still alive."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"fedsmu_ray.{module}", *arguments],
        cwd=folder,
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
