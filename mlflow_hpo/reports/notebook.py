"""A study in a notebook: its state as HTML, drawn again while it runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.reports.live import REDRAW
from mlflow_hpo.reports.text import best_line, best_rows, duration, spent, states, where_to_look
from mlflow_hpo.reports.words import brief, plain
from mlflow_hpo.tracking.summary import StudySummary

EXTRA = "this needs the extra: pip install 'mlflow-hpo[notebook]'"


def study_html(study: StudySummary, events: Iterable[str] = ()) -> str:
    """Return the state of a study as a piece of HTML: where it stands, its best trials, what happened last.

    Nothing in it is markup of others; it asks no server for anything.
    """
    to_go = [] if study.eta is None else [("to go", f"about {duration(study.eta)}")]
    ended = [("ended because", brief(study.reason, 1_000))] if study.reason else []
    state = [
        ("study", f"{brief(study.name)} ({study.run_id}) {study.status}"),
        ("search", f"{study.searcher} + {study.scheduler}"),
        ("trials", f"{len(study.trials)} of {study.trials_planned} started: {states(study)}"),
        (f"best {brief(study.metric)}", best_line(study)),
        ("spent", spent(study)),
        *(*to_go, *ended),
        ("look", where_to_look(study)),
    ]
    rows = [f"<tr><th style='text-align:left'>{escape(a)}</th>{_cells([b])}</tr>" for a, b in state]
    best = [f"<tr>{_cells(row)}</tr>" for row in best_rows(study)]
    happened = "".join(f"<div>{escape(plain(event))}</div>" for event in events)
    return f"<table>{''.join(rows)}</table><table>{''.join(best)}</table>{happened}"


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"<td style='text-align:left'>{escape(plain(text))}</td>" for text in texts)


class NotebookView:
    """Draws the state of a study below the cell that began it, and draws it again while it runs.

    Raises:
        ConfigError: IPython is not installed.
    """

    def __init__(self) -> None:
        try:
            from IPython.display import HTML, display
        except ImportError as error:
            raise ConfigError("listener", EXTRA) from error
        self._display, self._as_html = display, HTML
        self._events: deque[str] = deque(maxlen=6)
        self._drawn = 0.0
        self._shown: Any = None

    def started(self, summary: Callable[[], StudySummary]) -> None:
        """Begin to draw."""
        self._summary = summary
        self._shown = self._display(self._present(), display_id=True)

    def happened(self, message: str) -> None:
        """Show one more event."""
        self._events.append(message)

    def ticked(self) -> None:
        """Draw again, now and then."""
        if time.monotonic() - self._drawn > REDRAW:
            self._draw()

    def ended(self) -> None:
        """Draw the end of the study."""
        self._events.clear()
        self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._shown is not None:  # no cell begins a study that fails before its first run
            self._shown.update(self._present())

    def _present(self) -> Any:
        return self._as_html(study_html(self._summary(), self._events))
