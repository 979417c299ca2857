"""The command `mlflow-hpo watch`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from mlflow_hpo.commands.common import RUNTIME, reported

if TYPE_CHECKING:
    from mlflow_hpo.tracking.summary import StudySummary


@click.command()
@click.argument("run_id")
@click.option(
    "--interval",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0.1, 3600),
    help="Seconds between two looks.",
)
@click.option("--plain", is_flag=True, help="One line an event instead of the live view, also in a terminal.")
@click.option("--json", "as_json", is_flag=True, help="The state as one line of JSON for each change.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def watch(run_id: str, interval: float, plain: bool, as_json: bool, debug: bool) -> None:
    """Show the study RUN_ID live, which some other process drives, until it ends.

    It is read from MLflow alone, from any machine, and not touched; Ctrl-C ends the watching only. Exit code
    1 where the study did not end as FINISHED, or where nobody drives it any more.
    """
    with reported(debug):
        from rich.console import Console

        from mlflow_hpo.reports.live import LiveView, PlainView
        from mlflow_hpo.reports.watching import View
        from mlflow_hpo.reports.watching import watch as shown
        from mlflow_hpo.tracking.reader import read_study, who_drives

        def look() -> tuple[StudySummary, str]:
            return read_study(run_id), who_drives(run_id)

        console = Console()
        view: View = PlainView(console) if plain or not console.is_terminal else LiveView(console)
        ended = shown(look, JsonLines() if as_json else view, interval=interval)
    if ended.status != "FINISHED":
        sys.exit(RUNTIME)


class JsonLines:
    """Prints the state of a study as one line of JSON whenever something has happened, and at its end."""

    def __init__(self) -> None:
        self._events: list[str] = []

    def started(self, summary: Callable[[], StudySummary]) -> None:
        """Print the first line."""
        self._summary = summary
        self._print()

    def happened(self, message: str) -> None:
        """Keep one line for the next one printed."""
        self._events.append(message)

    def ticked(self) -> None:
        """Print a line if something has happened."""
        if self._events:
            self._print()

    def ended(self) -> None:
        """Print the last line."""
        self._print()

    def _print(self) -> None:
        from mlflow_hpo.reports.text import STATES
        from mlflow_hpo.reports.words import as_json

        study = self._summary()
        best = study.ranked()[:1]
        state = {
            "run_id": study.run_id,
            "status": study.status,
            "trials": len(study.trials),
            "trials_planned": study.trials_planned,
            "states": {word: study.count(status) for status, word in STATES.items()},
            "epochs": study.epochs,
            "best": best[0].best if best else None,
            "best_trial": best[0].trial_id if best else None,
            "reason": study.reason,
            "events": self._events,
        }
        click.echo(as_json(state, indent=None))
        self._events = []
