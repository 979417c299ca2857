"""Watching a study that some other process drives, from MLflow alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from mlflow_hpo.errors import StudyError
from mlflow_hpo.reports.text import STATES
from mlflow_hpo.tracking.summary import StudySummary, TrialSummary

PATIENCE = 60.0  # seconds for which nobody may drive a running study: its server may just be back
RELIEF = 10.0  # so many times as long as a look takes nothing is asked


class View(Protocol):
    """Shows a study; `mlflow_hpo.voice.Listener` has the same methods."""

    def started(self, summary: Callable[[], StudySummary]) -> None:
        """`summary` tells the state at any time."""

    def happened(self, message: str) -> None:
        """Show one line about what happened."""

    def ticked(self) -> None:
        """Called now and then."""

    def ended(self) -> None:
        """The study is over."""


def watch(
    look: Callable[[], tuple[StudySummary, str]],
    view: View,
    *,
    interval: float,
    sleep: Callable[[float], object] = time.sleep,
) -> StudySummary:
    """Show a study until it ends, and return how it ended.

    Args:
        look: returns the state, and who drives the study, "" for nobody; raises StudyError where the stores
            do not answer.
        view: shows it.
        interval: seconds between two looks; it is looked more rarely where that takes long.
        sleep: waits so many seconds.

    Raises:
        StudyError: nobody has driven it for `PATIENCE` seconds, or the stores do not answer the first look.
    """
    state, _ = look()
    view.started(lambda: state)
    begun = driven = time.monotonic()
    try:
        while state.status == "RUNNING":
            view.ticked()
            sleep(max(interval, RELIEF * (time.monotonic() - begun)))
            begun = time.monotonic()
            try:
                now, driver = look()
            except StudyError as error:  # it goes on without us
                view.happened(str(error))
                driven = time.monotonic()
                continue
            before, state = state, now
            for message in changes(before, state):
                view.happened(message)
            if driver:
                driven = time.monotonic()
            elif state.status == "RUNNING" and time.monotonic() - driven > PATIENCE:
                raise StudyError(
                    f"nobody drives study {state.run_id} any more; `mlflow-hpo resume {state.run_id}` goes "
                    "on with it, or says what does if it is of a function or a project of your own"
                )
    finally:
        view.ended()
    return state


def changes(before: StudySummary, after: StudySummary) -> Iterator[str]:
    """Return what has happened between two looks at a study, one line each."""
    known = {trial.trial_id: trial for trial in before.trials}
    for trial in after.trials:
        old = known.get(trial.trial_id)
        if old is None:
            yield f"trial {trial.trial_id}: started"
        if trial.status != "RUNNING" and (old is None or trial.status != old.status):
            yield _in_words(after, trial)
    was, now = before.ranked()[:1], after.ranked()[:1]
    if now and (not was or now[0].best != was[0].best):
        best = now[0]
        yield f"trial {best.trial_id}: best {after.metric} so far, {best.best:.6g} at epoch {best.best_epoch}"


def _in_words(study: StudySummary, trial: TrialSummary) -> str:
    value = "" if trial.value is None else f", {study.metric} {trial.value:.6g}"
    reason = f": {trial.reason}" if trial.reason else ""
    return f"trial {trial.trial_id}: {STATES[trial.status]} at epoch {trial.epochs}{value}{reason}"
