"""Event files, as TensorBoard reads them."""

import math

import pytest

from fedsmu_ray.tracking.base import DESCRIPTION, NewRun, run_link
from fedsmu_ray.tracking.tensorboard import TensorBoardTracker
from tests.helpers.mlflow_runs import values

RUN = NewRun("a=1", {"local.lr": "0.1", "algorithm.name": "fedsmu"}, {"k": "v"}, {"c": "x: 1\n"})


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return accumulator, {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in tags}


def test_scalars_parameters_and_texts(tmp_path):
    tracker = TensorBoardTracker(tmp_path)
    run_id = tracker.start(RUN)
    tracker.log(run_id, {"train/loss": 0.5, "test/accuracy": 0.25}, 1)
    tracker.log(run_id, {"train/loss": math.nan, "test/accuracy": 0.5}, 3)
    note = {DESCRIPTION: f"| a |\n|---|\n| {run_link('0', 'ab')} |"}
    tracker.finish(run_id, "FINISHED", {"final/test_accuracy": 0.5}, note)
    (folder,) = tmp_path.iterdir()
    accumulator, scalars = read(folder)
    assert scalars["test/accuracy"] == [(1, 0.25), (3, 0.5)]
    assert scalars["train/loss"][0] == (1, 0.5) and math.isnan(scalars["train/loss"][1][1])
    assert scalars["final/test_accuracy"] == [(3, 0.5)]
    (text,) = accumulator.Tensors("description/text_summary")
    assert text.tensor_proto.string_val == [b"| a |\n|---|\n| [0] |"]
    assert {"k/text_summary", "c/text_summary"} <= {*accumulator.Tags()["tensors"]}
    content = accumulator.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"local.lr" in content and b"fedsmu" in content


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_resumed_run_has_each_round_once(tmp_path, is_killed):
    tracker = TensorBoardTracker(tmp_path)
    run_id = tracker.start(RUN)
    for step in (1, 2):
        tracker.log(run_id, values(step), step)
    if is_killed:
        tracker._writers[run_id].events.flush()
    else:
        tracker.finish(run_id, "KILLED")
    again = TensorBoardTracker(tmp_path)
    assert again.resume(run_id, RUN) == run_id
    for step in (1, 2, 3):
        again.log(run_id, values(step), step)
    again.finish(run_id)
    (folder,) = tmp_path.iterdir()
    _, scalars = read(folder)
    assert [step for step, _ in scalars["train/loss"]] == [1, 2, 3]
