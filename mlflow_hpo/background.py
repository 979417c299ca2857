"""Background: a study that runs in a thread of its own, so that a notebook goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from mlflow_hpo.optimizer import BestTrial


class Background:
    """Runs a study. The process does not end before it does.

    Args:
        run: runs the study to its end.
        interrupt: asks it to end in good order.
    """

    def __init__(self, run: Callable[[], BestTrial], interrupt: Callable[[], None]) -> None:
        self._run = run
        self._interrupt = interrupt
        self._end: Future[BestTrial] = Future()
        threading.Thread(target=self._work, name="mlflow-hpo-study").start()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._end.done()

    def wait(self, timeout: float | None = None) -> BestTrial:
        """Wait for the end and return, or raise, what `Study.run` does; Ctrl-C ends the study in good order.

        Raises:
            TimeoutError: it is not over after so many seconds.
        """
        try:
            wait([self._end], timeout)
        except KeyboardInterrupt:
            self._interrupt()
            wait([self._end])
        return self._end.result(0)

    def _work(self) -> None:
        try:
            self._end.set_result(self._run())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            self._end.set_exception(error)
