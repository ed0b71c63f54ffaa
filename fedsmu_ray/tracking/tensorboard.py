"""Runs as event files of TensorBoard, with the parameters of each for its table (HParams)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsmu_ray.tracking.base import DESCRIPTION, RUN_LINK, NewRun, RunStatus
from fedsmu_ray.tracking.metrics import GENERAL, final_names
from fedsmu_ray.tracking.run_folders import FolderTracker, RunWriter

FLUSH_S = 10  # between writes, for whoever watches


class TensorBoardTracker(FolderTracker):
    """Writes the event files of every run into a folder, which is the log directory of the UI."""

    def open(self, run_id: str, run: NewRun, folder: Path) -> RunWriter:
        """Begin a run, or continue the one that the folder has."""
        return EventWriter(run, folder)


class EventWriter(RunWriter):
    """Writes one event file of a run; each time it is resumed, it gets another one."""

    def __init__(self, run: NewRun, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter, summary

        self.last_round = _last_step(folder)
        events: Any = SummaryWriter(str(folder), flush_secs=FLUSH_S)
        self.events = events
        params: dict[str, Any] = {name: _number(text) for name, text in run.params.items()}
        is_new = self.last_round == 0
        make: Any = summary.hparams  # neither is typed
        *begin, self.end = make(params, dict.fromkeys(final_names(GENERAL), 0.0))
        if is_new:
            for part in begin:
                self.events.file_writer.add_summary(part)
            for name, value in {**run.tags, **run.files}.items():
                self.events.add_text(name, f"```\n{value}\n```" if "\n" in value else value)

    def log(self, metrics: Mapping[str, float], round: int) -> None:
        """Write scalars whose step is the round."""
        for name, value in metrics.items():
            self.events.add_scalar(name, value, round)
        self.last_round = round

    def finish(
        self, status: RunStatus, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        """Write the final metrics and close the file."""
        for name, value in metrics.items():
            self.events.add_scalar(name, value, self.last_round)
        for name, text in {**tags, "status": status}.items():
            shown = RUN_LINK.sub("", text) if name == DESCRIPTION else text
            self.events.add_text("description" if name == DESCRIPTION else name, shown)
        self.events.file_writer.add_summary(self.end)
        self.events.close()


def _number(text: str) -> float | str:
    """A parameter as a number, by which the table can be sorted, if it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def _last_step(folder: Path) -> int:
    """The last round in the event files of a folder; 0 if there are none."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = sorted(folder.glob("events.out.tfevents.*"))
    return max(
        (event.step for file in files for event in EventFileLoader(str(file)).Load()), default=0
    )
