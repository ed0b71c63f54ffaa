"""Spans of time: how they are measured, and what happens to those of another process."""

import pickle
from dataclasses import replace

import pytest

from fedsmu_ray.federation import spans as module
from fedsmu_ray.federation.spans import Span, Spans, measured
from tests.helpers.experiments import inline_executor, outcome, problem_of


class Worker:
    def __init__(self, on):
        self.spans = Spans(on)

    @measured("work")
    def work(self, number, fail=False):
        """What it does."""
        if fail:
            raise ValueError(number)
        return 2 * number


def test_nested_spans_have_their_details_and_end_in_order():
    spans = Spans(True)
    with spans.measure("outer", round=3), spans.measure("inner"):
        pass
    inner, outer = spans.spans
    assert (inner.name, inner.details, outer.name, outer.details) == (
        "inner",
        {},
        "outer",
        {"round": 3},
    )
    assert outer.began <= inner.began <= inner.ended <= outer.ended


def test_calls_of_a_method_are_measured_also_if_they_raise():
    worker = Worker(True)
    assert worker.work(2) == 4 and Worker.work.__doc__ == "What it does."
    with pytest.raises(ValueError):
        worker.work(2, fail=True)
    assert [span.name for span in worker.spans.spans] == ["work", "work"]


def test_nothing_is_measured_unless_it_is_asked_for():
    worker = Worker(False)
    assert worker.work(2) == 4
    with worker.spans.measure("outer"):
        pass
    assert worker.spans.spans == [] and worker.spans.take() is None


def test_spans_of_another_process_keep_their_time_on_the_same_machine():
    mine, theirs = Spans(True), Spans(True)
    with theirs.measure("train", round=1):
        pass
    (span,) = theirs.spans
    sent = pickle.loads(pickle.dumps(theirs.take()))
    assert theirs.take() is None
    mine.add(sent, "client actor 0")
    mine.add(None, "client actor 1")
    assert mine.spans == [span._replace(process="client actor 0")]


def test_spans_of_another_machine_are_placed_by_the_wall_clock():
    mine, theirs = Spans(True), Spans(True)
    with theirs.measure("train"):
        pass
    (span,) = theirs.spans
    hour = 3600 * 10**9  # that machine was started an hour later: its clock shows less
    early = span._replace(began=span.began - hour, ended=span.ended - hour)
    sent = theirs.take()
    mine.add(sent._replace(spans=[early], host="x", wall_offset=sent.wall_offset + hour), "server")
    (placed,) = mine.spans
    assert abs(placed.began - span.began) < 10**9
    assert placed.ended - placed.began == span.ended - span.began


def test_no_more_spans_than_memory_has_room_for(monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 3)
    spans = Spans(True)
    for _ in range(5):
        with spans.measure("train"):
            pass
    spans.record(Span("", "train", 0, 1, {}))
    assert len(spans.spans) == 3 and not spans.on


def test_a_profiled_experiment_has_the_same_bits():
    problem = problem_of({"name": "fedsmu"})
    found = []
    for profiled in (False, True):
        executor = inline_executor(replace(problem, profiled=profiled))
        _, sha256, _ = outcome(problem, executor)
        found.append(sha256)
        assert bool(executor.spans.spans) == profiled
        executor.close()
    assert found[0] == found[1]
