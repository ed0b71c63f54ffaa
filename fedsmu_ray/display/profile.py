"""Where the time of a run went: a table on stdout, and a trace that Chrome and Perfetto open."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.table import Table

from fedsmu_ray.display.formatting import stdout
from fedsmu_ray.federation.spans import HERE, Span
from fedsmu_ray.files.folders import write
from fedsmu_ray.files.remote import Place
from fedsmu_ray.files.valid_json import to_json

log = logging.getLogger(__name__)

ROUND = "round"  # the span of a whole round
PHASES = {  # in the order of a round
    "sample": "draw the cohort",
    "broadcast": "encode the model for the clients",
    "place": "hand broadcast and tasks to actors",
    "wait": "for client actors",
    "decode": "decode the broadcast",
    "states": "stack and cut the clients' states",
    "train": "local training",
    "check": "that states and uploads are finite",
    "encode": "encode the uploads",
    "evaluate": "the model of the round before",
    "collect": "read reports, pass messages on",
    "receive": "check uploads and add them up",
    "step": "the server's step",
    "feedback": "the server's message after its step",
    "track": "tracking and progress",
    "checkpoint": "write the checkpoint",
    "other": "between the phases",
    "idle": "not at work, or Ray moves objects",
}
OPEN_IT = "open it in https://ui.perfetto.dev or chrome://tracing"
IN_DRIVER = {"step": "wait for the server to add up and step"}


@dataclass(frozen=True)
class Phase:
    """The time that one kind of process spent on one thing, without what is nested in it."""

    where: str  # "driver", "server", "2 client actors, each"
    name: str
    seconds: list[float] = field(repr=False)  # of each round
    share: float  # of all rounds


@dataclass(frozen=True)
class Profile:
    """The spans of a run, from all of its processes (see `federation.spans`)."""

    spans: Sequence[Span]

    @property
    def driver(self) -> str:
        """What the process that ran the rounds is called."""
        return "driver" if len(self.processes()) > 1 else "this process"

    def rounds(self) -> list[Span]:
        """The rounds that count.

        The first one is left out if there are three or more, as it also warms up.
        """
        rounds = [span for span in self.spans if span.name == ROUND]
        return rounds[1:] if len(rounds) > 2 else rounds

    def phases(self) -> list[Phase]:
        """Phases by kind of process; those of a process add up to the rounds."""
        rounds = self.rounds()
        lengths = np.array([span.ended - span.began for span in rounds]) / 1e9
        found = []
        for where, processes in self._kinds().items():
            spent = _by_phase([span for span in self.spans if span.process in processes], rounds)
            seconds = {name: row / len(processes) for name, row in spent.items()}
            if where == self.driver:
                seconds["other"] = seconds.pop(ROUND, np.zeros(len(rounds)))
            else:
                seconds["idle"] = np.maximum(0.0, lengths - sum(seconds.values()))
            found += [
                Phase(
                    where, name, seconds[name].tolist(), float(seconds[name].sum() / sum(lengths))
                )
                for name in PHASES
                if name in seconds and len(lengths)
            ]
        return found

    def processes(self) -> list[str]:
        """The processes, as in the trace: the driver, the server, the client actors."""
        names = {span.process for span in self.spans} - {HERE}
        return [HERE, *sorted(names, key=lambda name: (name != "server", len(name), name))]

    def _kinds(self) -> dict[str, list[str]]:
        """The processes behind each heading of the table."""
        _, *others = self.processes()
        actors = [name for name in others if name != "server"]
        several = f"{len(actors)} client actors, each" if len(actors) > 1 else "client actor"
        kinds = {self.driver: [HERE], several: actors, "server": ["server"]}
        return {where: have for where, have in kinds.items() if set(have) & {HERE, *others}}

    @staticmethod
    def of_trace(text: str) -> Profile:
        """The profile of a trace that `trace` has written; its times are since the first span."""
        events = json.loads(text)["traceEvents"]
        names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
        names[0] = HERE
        spans = []
        for event in events:
            if event["ph"] == "X":
                began = round(1e3 * event["ts"])
                ended = began + round(1e3 * event["dur"])
                spans.append(Span(names[event["pid"]], event["name"], began, ended, event["args"]))
        return Profile(spans)

    def trace(self) -> str:
        """The spans in Chrome's trace event format, as JSON.

        A process has the name of its part in the run; times are microseconds since the first span.
        """
        pids = {name: i for i, name in enumerate(self.processes())}
        start = min((span.began for span in self.spans), default=0)
        events: list[dict[str, object]] = []
        for process, pid in pids.items():
            at = {"ph": "M", "pid": pid, "tid": 0}
            events.append({**at, "name": "process_name", "args": {"name": process or self.driver}})
            events.append({**at, "name": "process_sort_index", "args": {"sort_index": pid}})
        for span in sorted(self.spans, key=_outer_first):
            events.append(
                {
                    "ph": "X",
                    "name": span.name,
                    "cat": "fedsmu_ray",
                    "pid": pids[span.process],
                    "tid": 0,
                    "ts": (span.began - start) / 1e3,
                    "dur": (span.ended - span.began) / 1e3,
                    "args": span.details,
                }
            )
        return to_json({"traceEvents": events, "displayTimeUnit": "ms"})


def _outer_first(span: Span) -> tuple[int, int]:
    return span.began, -span.ended


def _own_seconds(spans: Sequence[Span]) -> Iterator[tuple[Span, float]]:
    """The spans of each process, with their time without that of the spans nested in them."""
    for process in {span.process for span in spans}:
        ordered = sorted((s for s in spans if s.process == process), key=_outer_first)
        nested: dict[int, int] = defaultdict(int)
        open_ones: list[int] = []
        for i, span in enumerate(ordered):
            while open_ones and ordered[open_ones[-1]].ended <= span.began:
                open_ones.pop()
            if open_ones:
                nested[open_ones[-1]] += span.ended - span.began
            open_ones.append(i)
        for i, span in enumerate(ordered):
            yield span, (span.ended - span.began - nested[i]) / 1e9


def _by_phase(spans: Sequence[Span], rounds: Sequence[Span]) -> dict[str, np.ndarray]:
    """Seconds of each phase in each round [rounds]; a span belongs to the round it begins in."""
    begins = np.array([span.began for span in rounds])
    seconds: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(rounds)))
    for span, own in _own_seconds(spans):
        at = int(np.searchsorted(begins, span.began, side="right")) - 1
        if at >= 0 and span.began < rounds[at].ended:
            seconds[span.name][at] += own
    return dict(seconds)


def write_trace(spans: Sequence[Span], file: Place) -> Profile:
    """Write the trace of a run, private to its owner; returns the profile.

    A file that cannot be written costs a warning.
    """
    profile = Profile(spans)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, profile.trace())
    except OSError as error:
        log.warning("the trace cannot be written (%s)", error)
    return profile


def print_profile(profile: Profile, file: Path) -> None:
    """Print where the time of a round went; file: where the trace is."""
    print_phases(profile)
    stdout().print(
        f"trace of the run: {file}\n  {OPEN_IT}",
        soft_wrap=True,
    )


def print_trials(traces: Sequence[Place], limit: int = 12) -> None:
    """Print where the time of a round went in the slowest trials of a sweep.

    traces: the files of the trials, which are named after them, in one folder.
    """
    profiles = {file: Profile.of_trace(file.read_text(encoding="utf-8")) for file in traces}
    ms = {file: _median_ms(p.rounds()) for file, p in profiles.items() if p.rounds()}
    if not ms:
        return
    slowest = sorted(ms, key=lambda file: -ms[file])[:limit]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "ms a round", "train", "evaluate", "other", "idle", "driver"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for file in slowest:
        table.add_row(file.stem, _milliseconds(ms[file] / 1e3), *_shares(profiles[file]))
    console = stdout()
    console.print(
        f"\nwhere the time of a round went, in the slowest {len(slowest)} of {len(ms)} trials: "
        "shares of a client actor, and of the driver when it does not wait for them",
        soft_wrap=True,
    )
    console.print(table)
    console.print(f"a trace of each trial: {traces[0].parent}\n  {OPEN_IT}", soft_wrap=True)


def _shares(profile: Profile) -> list[str]:
    """Shares of a round: training, evaluation, other work and none of a client; the driver's."""
    phases = profile.phases()
    client = {p.name: p.share for p in phases if p.where not in ("driver", "server")}
    parts = [client.pop(name, 0.0) for name in ("train", "evaluate", "idle")]
    parts.insert(2, sum(client.values()))
    waits = [p.share for p in phases if (p.where, p.name) == ("driver", "wait")]
    parts += [1 - sum(waits)] if waits else []
    return [f"{100 * part:.1f} %" for part in parts]


def print_phases(profile: Profile) -> None:
    """Print the table of a profile, unless it has no round."""
    console = stdout()
    if phases := profile.phases():
        console.print(_title(profile.rounds()), soft_wrap=True)
        console.print(_table(phases, profile.driver))


def _title(rounds: Sequence[Span]) -> str:
    lengths = _lengths_ms(rounds)
    first, last = (rounds[at].details.get(ROUND) for at in (0, -1))
    return (
        f"\nrounds {first} to {last}: {np.median(lengths):.1f} ms each (median), "
        f"{np.percentile(lengths, 95):.1f} ms in the 95th percentile"
    )


def _lengths_ms(rounds: Sequence[Span]) -> list[float]:
    return [(span.ended - span.began) / 1e6 for span in rounds]


def _median_ms(rounds: Sequence[Span]) -> float:
    return float(np.median(_lengths_ms(rounds)))


def _table(phases: Sequence[Phase], driver: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("ms a round", no_wrap=True)
    for heading in ("median", "p95", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    where, apart = "", any(phase.where == "server" for phase in phases)
    for phase in phases:
        if phase.where != where:
            where = phase.where
            table.add_row(where)
        meaning = IN_DRIVER.get(phase.name) if apart and where == driver else None
        table.add_row(
            f"  {phase.name}",
            _milliseconds(float(np.median(phase.seconds))),
            _milliseconds(float(np.percentile(phase.seconds, 95))),
            f"{100 * phase.share:.1f} %",
            meaning or PHASES[phase.name],
        )
    return table


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.2f}" if value < 1000 else f"{value:.0f}"
