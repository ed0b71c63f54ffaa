"""Ray Tune at work: from the plan of a sweep to its books."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ray import tune

from fedsmu_ray.config.validation import Config
from fedsmu_ray.display.progress import SweepDisplay
from fedsmu_ray.sweeps.recorder import SweepRecorder
from fedsmu_ray.sweeps.searcher import plan, scheduler
from fedsmu_ray.sweeps.trial import Resources, Trial

TRIAL_RETRIES = (
    2  # of a trial whose process was lost; it goes on from its checkpoint, or starts again
)


def fit(
    config: Config, book: SweepRecorder, folder: Path, dataset: list[Any], where: str, display: bool
) -> None:
    """Have Tune run what is left of the sweep. dataset: the reference to the data set, as `cluster.store` gave it."""
    planned = plan(config, book)
    total = len(planned.waiting) + planned.budget + len(book.rows)
    # Trials waiting for resources at once: all that a cluster may have room for (its autoscaler sees them too); few
    # for Optuna, whose suggestions should know as many results as possible.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "2" if planned.study else "32"
    with SweepDisplay(
        config.name, total, len(book.rows), config.federation.rounds, where, display
    ) as shown:
        book.shown = shown
        trainable = tune.with_parameters(
            Trial, source=config.source, dataset=dataset, folder=str(folder.absolute())
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, Resources(config.source)),
            tune_config=tune.TuneConfig(
                search_alg=planned,
                scheduler=scheduler(config),
                num_samples=max(1, total - len(book.rows)),
                reuse_actors=True,
                max_concurrent_trials=config.tune.concurrent,
                trial_name_creator=_trial_folder,
                trial_dirname_creator=_trial_folder,
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(folder.absolute()),
                callbacks=[book],
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            ),
        )
        if total > len(book.rows):
            tuner.fit()


def _trial_folder(trial: Any) -> str:
    return f"trial-{trial.config['index']:03d}"
