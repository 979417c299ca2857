"""Watching a study in the terminal: a live view, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mlflow_hpo.reports.text import (
    best_line,
    best_rows,
    closing_of_end,
    duration,
    ending,
    opening_of_end,
    rungs,
    spent,
    states,
)
from mlflow_hpo.reports.words import brief, plain
from mlflow_hpo.tracking.summary import StudySummary

REDRAW = 0.5  # seconds between two looks at the study


class PlainView:
    """Prints one line an event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def started(self, summary: Callable[[], StudySummary]) -> None:
        """Print where the study is written to."""
        self._summary = summary
        study = summary()
        self._print(f"study {study.name} ({study.run_id}): {study.trials_planned} trials of {study.searcher}")

    def happened(self, message: str) -> None:
        """Print one line."""
        self._print(message)

    def ticked(self) -> None:
        """Print nothing: nothing happened."""

    def ended(self) -> None:
        """Print the end of the study."""
        for line in ending(self._summary()):
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(Text(plain(line)), soft_wrap=True)


class LiveView:
    """Draws the study's state in place: trials by state, rungs, best so far, spending, what happened last."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._events: deque[str] = deque(maxlen=6)
        self._drawn = 0.0
        self._live: Live | None = None

    def started(self, summary: Callable[[], StudySummary]) -> None:
        """Begin to draw."""
        self._summary = summary
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._draw()

    def happened(self, message: str) -> None:
        """Show one more event."""
        self._events.append(plain(message))

    def ticked(self) -> None:
        """Draw again, now and then."""
        if time.monotonic() - self._drawn > REDRAW:
            self._draw()

    def ended(self) -> None:
        """Replace the view by the end of the study."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        study = self._summary()
        for line in opening_of_end(study):
            self._console.print(Text(plain(line)))
        if rows := best_rows(study):
            self._console.print(best_table(study, rows))
        for line in closing_of_end(study):
            self._console.print(Text(plain(line)), soft_wrap=True)  # so that a link is copied whole

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._live is not None:
            self._live.update(render(self._summary(), list(self._events)), refresh=True)


def best_table(study: StudySummary, rows: list[tuple[str, str, str, str, str]]) -> Table:
    """Return the best trials as a table that folds long configurations."""
    table = Table(
        box=box.SIMPLE,
        title=Text(f"best {len(rows)} by {brief(study.metric)} ({study.mode})"),
        title_justify="left",
    )
    for name in (brief(study.metric), "trial", "epoch", "state", "configuration"):
        table.add_column(Text(name), no_wrap=name != "configuration", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def render(study: StudySummary, events: list[str]) -> Panel:
    """Return the live view of a study as a rich renderable."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    started = len(study.trials)
    table.add_row("trials", Text(f"{started} of {study.trials_planned} started: {states(study)}"))
    table.add_row("reached", Text(rungs(study) or "-"))
    table.add_row(Text(f"best {brief(study.metric)}"), Text(best_line(study), style="bold green"))
    table.add_row("spent", Text(spent(study)))
    table.add_row("to go", Text("-" if study.eta is None else f"about {duration(study.eta)}"))
    happened = Text("\n".join(events), style="dim", overflow="ellipsis", no_wrap=True)
    return Panel(
        Group(table, Text(""), happened),
        title=Text(f"{brief(study.name)}: {study.searcher} + {study.scheduler}"),
        title_align="left",
    )
