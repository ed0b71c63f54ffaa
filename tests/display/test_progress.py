"""Progress on stderr: lines if it is piped, nothing if it is turned off."""

from types import SimpleNamespace

import pytest

from fedsmu_ray.display import progress
from fedsmu_ray.display.progress import RunProgress, SweepProgress, print_start
from fedsmu_ray.federation.records import Record

CONFIG = SimpleNamespace(
    name="small",
    method_name="fedsmu",
    model_name="mlp",
    data=SimpleNamespace(dataset="digits", clients=20, validation=0.0),
    federation=SimpleNamespace(cohort=5, rounds=6),
)
EVALUATED = Record(
    2, (1,), 0.5, 1500, 3000, 0.25, 0.0, dropped=1, test_accuracy=0.9, test_loss=0.345
)


@pytest.fixture
def always(monkeypatch):
    """Print a line at every update, without a minimum interval."""
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", -1.0)


def test_lines_of_a_run(capsys, always):
    with RunProgress(CONFIG, 12345, "this process", enabled=True) as shown:
        shown.update(Record(1, (1,), 0.5, 700, 1400, 0.25, 0.0))  # nothing evaluated yet
        shown.update(EVALUATED)
        shown.update(Record(3, (1,), 0.5, 2000, 4000, 0.5, 0.0))
        shown.print_line("a line [red]")
    assert capsys.readouterr().err.splitlines() == [
        "small: fedsmu on digits, mlp with 12,345 parameters, 20 clients, 5 per round, 6 rounds; "
        "this process",
        "round 2/6  accuracy 90.00 %  loss 0.345  upload 1.5 kB, 1 upload missing  0.25 s/round",
        "round 3/6  accuracy 90.00 %  loss 0.345  upload 1.5 kB, 1 upload missing  0.50 s/round",
        "a line [red]",
    ]


def test_a_resumed_run_says_after_which_round(capsys):
    with RunProgress(CONFIG, 12345, "this process", enabled=True, done=4):
        pass
    assert " 6 rounds, goes on after round 4; this process\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "executor, line",
    [("ray", "small: loading digits, starting Ray"), ("inline", "small: loading digits")],
)
def test_the_line_at_the_start(capsys, executor, line):
    config = SimpleNamespace(**vars(CONFIG), compute=SimpleNamespace(executor=executor))
    print_start(config, enabled=False)
    print_start(config, enabled=True)
    assert capsys.readouterr().err == f"{line}\n"


def test_lines_come_at_intervals(capsys):
    with RunProgress(CONFIG, 12345, "this process", enabled=True) as shown:
        shown.update(EVALUATED)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_display_that_is_turned_off_prints_nothing(capsys, always):
    with RunProgress(CONFIG, 12345, "this process", enabled=False) as shown:
        shown.update(EVALUATED)
        shown.print_line("a line")
    assert capsys.readouterr() == ("", "")


def test_lines_of_a_sweep(capsys, always):
    with SweepProgress("small", 3, 1, 6, "a cluster", enabled=True) as shown:
        shown.start("001 lr=0.1")
        shown.update("001 lr=0.1", 2, "test/accuracy", 0.5)
        shown.update("002 lr=0.2", 4, "test/accuracy", 0.75)
        shown.finish("002 lr=0.2", "75.00 %", "test/accuracy", 0.75)
        shown.finish("001 lr=0.1", "failed: no reason")
    assert shown.best == ("test/accuracy", 0.75) and capsys.readouterr().err.splitlines() == [
        "small: 3 trials of up to 6 rounds, 1 of them completed before; a cluster",
        "1/3 trials done; running: 001 lr=0.1: round 2/6, 50.00 %",
        "1/3 trials done; running: 001 lr=0.1: round 2/6, 50.00 %; 002 lr=0.2: round 4/6, 75.00 %",
        "[2/3] 002 lr=0.2: 75.00 %",
        "[3/3] 001 lr=0.1: failed: no reason",
    ]


@pytest.mark.parametrize("text", ["demo [/nlp]", "x[draft]y", ":smile:", "{task.x} [red]"])
def test_names_are_shown_as_they_are(capsys, always, text):
    config = SimpleNamespace(**{**vars(CONFIG), "name": text, "model_name": text})
    with RunProgress(config, 12345, text, enabled=True) as shown:
        shown.update(EVALUATED)
    with SweepProgress(text, 1, 0, 6, text, enabled=True) as sweep:
        sweep.update(text, 2, "test/accuracy", 0.5)
        live = sweep.progress.get_renderable()  # the bars of a terminal
        sweep.console.print(live)
        sweep.finish(text, f"failed: {text}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{text}: fedsmu on digits, {text} with")
    assert lines[2] == f"{text}: 1 trials of up to 6 rounds; {text}"
    assert any(line.startswith(f"  {text} ") for line in lines)
    assert lines[-1] == f"[1/1] {text}: failed: {text}"


@pytest.mark.parametrize(
    "done, last, why, line",
    [
        (0, 4, "because", "the run stopped after round 4 of 6: because"),
        (4, 4, "because", "the run was complete before, stopped after round 4 of 6: because"),
        (6, 6, None, "the run was complete before, with all 6 rounds"),
        (4, 6, None, ""),
    ],
)
def test_the_end_of_a_run_is_told_if_there_is_something_to_tell(capsys, done, last, why, line):
    with RunProgress(CONFIG, 12345, "this process", enabled=True, done=done) as shown:
        capsys.readouterr()
        shown.end(last, why)
    assert capsys.readouterr().err == (f"{line}\n" if line else "")
