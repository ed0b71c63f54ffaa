"""Runs in Weights & Biases: a project for an experiment, a group for a sweep.

`WANDB_MODE=offline` writes files only, which `wandb sync` uploads later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsmu_ray import environment
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files.folders import write
from fedsmu_ray.tracking.base import DESCRIPTION, RUN_LINK, NewRun, RunStatus
from fedsmu_ray.tracking.run_folders import FolderTracker, RunWriter


def check_key() -> None:
    """Raise ConfigError if there is no key for the server, for which the client would ask."""
    if not environment.wandb_uploads():
        return
    environment.set_wandb_defaults()
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    if not wandb.login(prompt=False, verify=False):
        raise ConfigError(
            [
                "tracking.also = wandb: there is no key of Weights & Biases; run `wandb login`, "
                "set WANDB_API_KEY, or set WANDB_MODE=offline"
            ]
        )


class WandbTracker(FolderTracker):
    """Writes every run through the client of Weights & Biases."""

    def __init__(self, folder: Path, project: str) -> None:
        """folder: must be called wandb. project: unless WANDB_PROJECT names one."""
        super().__init__(folder)
        self.project = environment.wandb_project() or project
        environment.set_wandb_defaults()

    def open(self, run_id: str, run: NewRun, folder: Path) -> RunWriter:
        """Begin a run, or continue the one with this id."""
        import wandb

        begun = wandb.init(
            project=self.project,
            id=run_id,
            name=run.name,
            group=(folder.parent if run.parent else folder).name,
            job_type="trial" if run.parent else None,
            dir=str(self.folder.parent),  # below which it makes the folder wandb
            resume="allow",
            reinit="create_new",  # trials run at the same time
            settings=wandb.Settings(
                silent=True, console="off", x_disable_stats=not run.system_metrics
            ),
        )
        return WandbWriter(begun, run, self.folder / "rounds" / folder.name)


class WandbWriter(RunWriter):
    """Writes one run; each time it is resumed offline, that is one more folder to sync."""

    def __init__(self, begun: Any, run: NewRun, note: Path) -> None:
        """begun: the client's run. note: the file that keeps its last round."""
        # What the client's files have cannot be read again, and a server takes every row.
        self.run, self.note = begun, note
        self.last_round = int(note.read_text()) if note.exists() else 0
        note.parent.mkdir(parents=True, exist_ok=True)
        tags = {name: text for name, text in run.tags.items() if not name.startswith("mlflow.")}
        self.run.config.update({**run.params, "tags": tags}, allow_val_change=True)

    def log(self, metrics: Mapping[str, float], round: int) -> None:
        """Log a row whose step is the round."""
        self.run.log({"round": round, **metrics}, step=round)
        write(self.note, str(round))

    def finish(
        self, status: RunStatus, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        """Set the summary and end the run."""
        own = {name: text for name, text in tags.items() if name != DESCRIPTION}
        if description := tags.get(DESCRIPTION):
            self.run.notes = RUN_LINK.sub(r"(\1)", description)  # beside the page of this run
        self.run.summary.update({**metrics, "status": status, **own})
        self.run.finish(exit_code=0 if status == "FINISHED" else 1)
