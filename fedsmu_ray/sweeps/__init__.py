"""Sweeps: Ray Tune schedules trials, each a federation of its own actors; MLflow gets a parent run and its children.

    sweep.py    the sweep from configuration to outcome
    fit.py      Ray Tune at work on it
    plan.py     which trials are left to run, and which are stopped early
    trial.py    one trial, in a process of its own
    book.py     the records: what is written to the folder, the runs in MLflow, the display
    folder.py   the sweep's folder, new or to be resumed

This file is imported before any of them, and so before Ray.
"""

import os

# Ray reads these when it is imported, Tune when it runs: no second progress display, no per-trial loggers of its
# own (MLflow is the record), and an interrupt that reaches this module.
for _name, _value in {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports an error and no metric
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}.items():
    os.environ.setdefault(_name, _value)
