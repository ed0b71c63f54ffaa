"""The use of CPU, memory, disk, network and GPUs while a run goes on, by MLflow's own monitor."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)


class SystemMetrics:
    """Monitors of the host of this process, which write into the runs that it tracks.

    They write themselves, past the queue: what a server that is away misses of these is lost, and
    nothing else. MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL is the seconds between samples (10).
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._monitors: dict[str, Any] = {}  # by run id

    def start(self, run_id: str) -> None:
        """Begin to monitor for a run that the store has."""
        from mlflow.system_metrics import system_metrics_monitor

        make: Any = system_metrics_monitor.SystemMetricsMonitor  # it is untyped
        try:
            monitor = make(run_id, resume_logging=True, tracking_uri=self._uri)
            monitor.start()
            self._monitors[run_id] = monitor
        except Exception as error:  # each kind of store has its own exceptions
            log.warning("no system metrics of run %s (%s)", run_id, type(error).__name__)

    def finish(self, run_id: str) -> None:
        """Write what was sampled last; nothing for a run that is not monitored."""
        if monitor := self._monitors.pop(run_id, None):
            monitor.finish()
