"""Progress of reading a data set, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENT = 2000  # no display for so few images
LINE_EVERY_S = 10.0  # between lines of a display that is not a terminal


@contextmanager
def progress(what: str, total: int, silent: int, note: str = "") -> Iterator[Callable[[int], None]]:
    """Show progress on stderr; yields advance(count).

    A bar on a terminal, lines at intervals elsewhere (the first with the note), nothing for a total
    of up to `silent`.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(
        stderr=True, markup=False, emoji=False, highlight=False, quiet=total <= silent
    )
    done, last_line = 0, time.monotonic()
    if not console.is_terminal:
        console.print(f"{what} ({note})" if note else what, soft_wrap=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or total <= silent,
    ) as bar:
        task = bar.add_task(what, total=total)

        def advance(count: int) -> None:
            nonlocal done, last_line
            done += count
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - last_line > LINE_EVERY_S:
                console.print(f"{what}: {done:,}", soft_wrap=True)
                last_line = time.monotonic()

        yield advance
