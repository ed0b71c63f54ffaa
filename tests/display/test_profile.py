"""The table and the trace of a profiled run, inline and on Ray."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from fedsmu_ray.display.profile import PHASES, Profile, print_profile, print_trials
from fedsmu_ray.federation.spans import HERE, Span
from tests.helpers.experiments import inline, inline_executor, outcome, problem_of

MS = 10**6
# Two client actors and a server in rounds of 100 ms; names, begin and end in ms.
ROUND = [
    (HERE, "sample", 0, 10),
    (HERE, "wait", 20, 80),
    (HERE, "track", 90, 100),
    (HERE, "checkpoint", 94, 100),
    ("client actor 0", "train", 20, 60),
    ("client actor 1", "train", 20, 40),
    ("client actor 1", "evaluate", 40, 60),
    ("client actor 1", "decode", 40, 45),
    ("server", "receive", 60, 70),
]
CLIENT_PHASES = {"decode", "states", "train", "check", "encode", "evaluate"}
SERVER_PHASES = {"broadcast", "receive", "step"}


def made_up(rounds):
    spans = []
    for t in range(rounds):
        start = 1000 + 100 * t
        spans += [
            Span(process, name, (start + began) * MS, (start + ended) * MS, {})
            for process, name, began, ended in ROUND
        ]
        spans.append(Span(HERE, "round", start * MS, (start + 100) * MS, {"round": t + 1}))
    return Profile([*spans, Span(HERE, "evaluate", 9000 * MS, 9900 * MS, {})])


def profile_of(executor, algorithm="fedsmu"):
    """Profile of a short experiment; its model has the bits of one that is not profiled."""
    problem = problem_of(
        {"name": algorithm}, federation={"rounds": 5, "cohort": 7, "eval_every": 2}
    )
    executor.load(replace(problem, profiled=True))
    _, sha256, _ = outcome(problem, executor)
    assert sha256 == inline(problem)[1]
    return Profile(executor.spans.spans)


def names(profile, where):
    return {phase.name for phase in profile.phases() if phase.where == where}


def check_sums(profile):
    """Phases add up to the rounds, and spans are nested in each other and in their round."""
    rounds = profile.rounds()
    assert [span.details["round"] for span in rounds] == [2, 3, 4, 5]  # the first one warms up
    lengths = [(span.ended - span.began) / 1e9 for span in rounds]
    phases = profile.phases()
    for where in {phase.where for phase in phases}:
        own = [phase.seconds for phase in phases if phase.where == where]
        assert [sum(each) for each in zip(*own)] == pytest.approx(lengths)
        assert sum(p.share for p in phases if p.where == where) == pytest.approx(1)
    by_round = {s.details["round"]: s for s in profile.spans if s.name == "round"}
    trained = [span for span in profile.spans if span.name == "train"]
    for span in trained:
        around = by_round[span.details["round"]]
        assert around.began < span.began < span.ended < around.ended
    assert sum(len(span.details["clients"]) for span in trained) == 5 * 7
    for process in profile.processes():
        spans = [span for span in profile.spans if span.process == process]
        for one, other in pairwise(sorted(spans, key=lambda s: (s.began, -s.ended))):
            assert other.began >= one.ended or other.ended <= one.ended


def test_time_is_that_of_the_innermost_span_and_per_client_actor():
    phases = {(p.where, p.name): p for p in made_up(4).phases()}
    expected = {
        ("driver", "sample"): 10,
        ("driver", "wait"): 60,
        ("driver", "track"): 4,
        ("driver", "checkpoint"): 6,
        ("driver", "other"): 20,
        ("2 client actors, each", "decode"): 2.5,
        ("2 client actors, each", "train"): 30,
        ("2 client actors, each", "evaluate"): 7.5,
        ("2 client actors, each", "idle"): 60,
        ("server", "receive"): 10,
        ("server", "idle"): 90,
    }
    assert phases.keys() == expected.keys()
    for key, ms in expected.items():
        assert phases[key].seconds == pytest.approx([ms / 1e3] * 3)  # the first round warms up
        assert phases[key].share == pytest.approx(ms / 100)


def test_the_table_fits_80_columns(capsys):
    slow = [s._replace(began=500 * s.began, ended=500 * s.ended) for s in made_up(3).spans]
    every = Span(HERE, "feedback", slow[0].began, slow[0].began, {})
    print_profile(Profile([*slow, every, *(every._replace(name=n) for n in PHASES)]), "a.json")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert "rounds 2 to 3: 50000.0 ms each (median), 50000.0 ms in the 95th percentile" in lines
    assert max(map(len, lines)) <= 80
    assert "wait 30000 30000 60.0 % for client actors" in {" ".join(x.split()) for x in lines}
    assert lines[-2:] == [
        "trace of the run: a.json",
        "  open it in https://ui.perfetto.dev or chrome://tracing",
    ]


def test_a_run_without_a_round_has_a_trace_and_no_table(capsys):
    print_profile(Profile([]), "a.json")
    assert capsys.readouterr().out.startswith("trace of the run: a.json\n")
    assert all(event["ph"] == "M" for event in json.loads(Profile([]).trace())["traceEvents"])


def test_the_trace_names_processes_and_has_complete_events():
    profile = made_up(2)
    trace = json.loads(profile.trace())
    events = trace["traceEvents"]
    named = {e["args"]["name"]: e["pid"] for e in events if e["name"] == "process_name"}
    assert named == {"driver": 0, "server": 1, "client actor 0": 2, "client actor 1": 3}
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == len(profile.spans) and {e["ph"] for e in events} == {"X", "M"}
    assert all({"name", "cat", "ts", "dur", "pid", "tid", "args"} <= e.keys() for e in complete)
    first, second = [e for e in complete if e["name"] == "round"]
    assert (first["ts"], first["dur"], first["args"]) == (0, 100_000, {"round": 1})  # microseconds
    assert second["ts"] == 100_000


def test_a_trace_is_read_as_the_profile_it_was():
    odd = [s._replace(ended=s.ended + i) for i, s in enumerate(made_up(4).spans)]  # nanoseconds
    start = min(span.began for span in odd)
    moved = [s._replace(began=s.began - start, ended=s.ended - start) for s in odd]
    read = Profile.of_trace(Profile(odd).trace())
    assert sorted(read.spans, key=str) == sorted(moved, key=str)
    assert read.phases() == Profile(moved).phases()


def test_the_table_of_a_sweep_has_the_slowest_trials(tmp_path, capsys):
    alone = [s._replace(process=HERE) for s in made_up(3).spans if s.name in ("round", "train")]
    slow = [s._replace(began=20 * s.began, ended=20 * s.ended) for s in made_up(3).spans]
    profiles = {"000": made_up(3), "001": Profile(slow), "002": Profile([]), "003": Profile(alone)}
    files = [tmp_path / f"trial-{index}.json" for index in profiles]
    for file, profile in zip(files, profiles.values()):
        file.write_text(profile.trace())
    print_trials(files, 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("where the time of a round went, in the slowest 2 of 3 trials: ")
    assert [" ".join(line.split()) for line in lines[2:5]] == [
        "ms a round train evaluate other idle driver",
        "trial-001 2000 30.0 % 7.5 % 2.5 % 60.0 % 40.0 %",
        "trial-000 100.00 30.0 % 7.5 % 2.5 % 60.0 % 40.0 %",
    ]
    assert max(map(len, lines[2:5])) <= 80
    assert lines[5] == f"a trace of each trial: {tmp_path}"
    print_trials(files[3:])
    assert "trial-003 100.00 40.0 % 0.0 % 60.0 % 0.0 %" in " ".join(capsys.readouterr().out.split())
    print_trials(files[2:3])
    print_trials([])
    assert capsys.readouterr().out == ""


def test_an_inline_experiment_is_one_process():
    executor = inline_executor(problem_of({"name": "fedsmu"}))
    profile = profile_of(executor)
    executor.close()
    check_sums(profile)
    assert profile.processes() == [HERE]
    expected = CLIENT_PHASES | SERVER_PHASES | {"sample", "track", "other"}
    assert names(profile, "this process") == expected
    assert {span.name for span in profile.spans} - {"round"} <= PHASES.keys()


def test_an_experiment_on_ray_has_spans_of_all_its_processes(ray_cluster, monkeypatch):
    from fedsmu_ray.executors import ray_executor

    executor = ray_executor.RayExecutor(problem_of({"name": "fedsmu"}).config.compute, 2)
    driver = {"sample", "place", "wait", "collect", "step", "track", "other"}
    try:
        profile = profile_of(executor)
        check_sums(profile)
        assert profile.processes() == [HERE, "client actor 0", "client actor 1"]
        assert names(profile, "driver") == driver | SERVER_PHASES
        monkeypatch.setattr(ray_executor, "IN_PROCESS_DIM", 0)
        profile = profile_of(executor)
        check_sums(profile)
        assert profile.processes() == [HERE, "server", "client actor 0", "client actor 1"]
        assert names(profile, "driver") == driver
        assert names(profile, "2 client actors, each") == CLIENT_PHASES | {"idle"}
        assert names(profile, "server") == SERVER_PHASES | {"idle"}
        assert "feedback" in {s.name for s in profile_of(executor, "dlion").spans}
        executor.load(problem_of({"name": "fedsmu"}))  # not profiled
        outcome(executor.problem, executor)
        assert executor.spans.spans == []
    finally:
        executor.close()
