"""Voice: tells the user, and whoever watches, what happens in a study."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from mlflow_hpo.tracking.summary import StudySummary

logger = logging.getLogger("mlflow_hpo.study")


class Listener(Protocol):
    """Watches a study; called in its thread, so be quick."""

    def started(self, summary: Callable[[], StudySummary]) -> None:
        """The parent run is there and the workers will start; `summary` tells the state at any time."""

    def happened(self, message: str) -> None:
        """One line about something that just happened."""

    def ticked(self) -> None:
        """Called a few times a second."""

    def ended(self) -> None:
        """The study is over and everything is written."""


class Voice:
    """Tells what happens, in the log and to a listener.

    Args:
        listener: who watches, if anybody.
        muted: nothing is told at first, as it was told at its time.

    Attributes:
        muted: whether `tell` says nothing.
    """

    def __init__(self, listener: Listener | None, *, muted: bool) -> None:
        self.muted = muted
        self._listener = listener

    def tell(self, message: str) -> None:
        """Tell in one line what happened."""
        if self.muted:
            return
        logger.info("%s", message)
        if self._listener is not None:
            self._listener.happened(message)

    def warn(self, message: str) -> None:
        """Tell what the user should know, also where nobody listens."""
        if self._listener is None:
            logger.warning("%s", message)
        else:
            self.tell(message)

    def started(self, summary: Callable[[], StudySummary]) -> None:
        """Tell the listener that the study begins."""
        if self._listener is not None:
            self._listener.started(summary)

    def ticked(self) -> None:
        """Give the listener a turn."""
        if self._listener is not None:
            self._listener.ticked()

    def ended(self) -> None:
        """Tell the listener that the study is over."""
        if self._listener is not None:
            self._listener.ended()
