"""Uploader: stores checkpoints from a thread of its own, while the next epochs are trained."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow_hpo.errors import CorruptCheckpointError, HpoError, StoreAwayError
from mlflow_hpo.launchers.base import CheckpointStore, CheckpointStored, Warned

PATIENCE = 6 * 3600.0  # seconds that an upload is tried again for
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds between two tries; they double


@dataclass(frozen=True, slots=True)
class Upload:
    """A sealed file that is to be stored; it is called off by removing the file.

    `newest` says that nothing newer of the trial is known, `heirs` how many workers died over it.
    """

    trial_id: int
    location: str
    epoch: int
    path: Path
    size: int
    newest: bool
    heirs: int = 0


@dataclass(frozen=True, slots=True)
class Queued:
    """An upload waits for its turn."""

    upload: Upload


@dataclass(frozen=True, slots=True)
class Settled:
    """An upload is over; `event` is what the study hears of it, None where it was called off."""

    upload: Upload
    event: CheckpointStored | Warned | None


@dataclass(frozen=True, slots=True)
class Away:
    """The store does not answer; what is to be stored waits."""

    trial_id: int
    problem: str


@dataclass(frozen=True, slots=True)
class Back:
    """The store answers again, and nothing waits for it any more."""

    trial_id: int


Message = Queued | Settled | Away | Back


@dataclass(slots=True)
class _Waiting:
    upload: Upload
    since: float
    failures: int = 0
    not_before: float = 0.0


class Uploader:
    """One thread that stores files in their order, and those of one trial strictly so.

    When a store is away, its uploads are tried again for hours with growing pauses, and those of other
    trials meanwhile. Thread-safe.

    Args:
        open_store: opens the store of the trial at a location.
        send: tells the driver; called from any thread.
    """

    def __init__(self, open_store: Callable[[str], CheckpointStore], send: Callable[[Message], None]) -> None:
        self._open_store = open_store
        self._tell = send
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._away = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow-hpo-uploader")
        self._thread.start()

    def add(self, upload: Upload) -> None:
        """Queue an upload."""
        self._send(Queued(upload))
        self.inherit((upload,))

    def inherit(self, uploads: Iterable[Upload]) -> None:
        """Queue uploads that the driver knows of."""
        with self._changed:
            self._waiting += [_Waiting(upload, time.monotonic()) for upload in uploads]
            self._changed.notify_all()

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to store; return whether that was so within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def _run(self) -> None:
        while True:
            waiting = self._next()
            event = self._attempt(waiting)
            if isinstance(event, StoreAwayError):
                self._postpone(waiting, event)
                continue
            with self._changed:
                self._waiting.remove(waiting)
                failing = any(other.failures for other in self._waiting)
            # before the queue is seen to be empty, so that whoever waits for that has been told
            self._send(Settled(waiting.upload, event))
            if self._away and isinstance(event, CheckpointStored) and not failing:
                self._away = False
                self._send(Back(waiting.upload.trial_id))
            with self._changed:
                self._changed.notify_all()

    def _next(self) -> _Waiting:
        """Wait for the first upload whose turn it is; it stays in the queue."""
        with self._changed:
            while True:
                heads: dict[int, _Waiting] = {}
                for waiting in self._waiting:
                    heads.setdefault(waiting.upload.trial_id, waiting)
                now = time.monotonic()
                for waiting in heads.values():
                    if waiting.not_before <= now:
                        return waiting
                pause = min((waiting.not_before for waiting in heads.values()), default=None)
                self._changed.wait(None if pause is None else pause - now)

    def _attempt(self, waiting: _Waiting) -> CheckpointStored | Warned | StoreAwayError | None:
        """Try to store a file; return what to tell, None if the upload was called off."""
        upload = waiting.upload
        if not upload.path.exists():
            return None
        try:
            name = self._open_store(upload.location).upload(upload.epoch, upload.path)
            return CheckpointStored(upload.trial_id, upload.epoch, name)
        except StoreAwayError as error:
            if time.monotonic() - waiting.since < PATIENCE:
                return error
            return _lost(upload, f"the artifact store was away for {PATIENCE / 3600:g} hours: {error}")
        except CorruptCheckpointError as error:
            upload.path.unlink(missing_ok=True)  # it is of no use to anybody
            return _lost(upload, f"its file on this machine is damaged: {error}")
        except Exception as error:  # noqa: BLE001 - stores raise what they like
            if not upload.path.exists():
                return None
            return _lost(
                upload, str(error) if isinstance(error, HpoError) else f"{type(error).__name__}: {error}"
            )

    def _postpone(self, waiting: _Waiting, error: StoreAwayError) -> None:
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(waiting.failures, 20))
        waiting.failures += 1
        # all workers lost the store at once, and should not all come back to it at once
        waiting.not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311
        if not self._away:
            self._away = True
            self._send(Away(waiting.upload.trial_id, str(error)))

    def _send(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # the driver is gone: what is queued is stored all the same
            self._tell(message)


def inherited(upload: Upload) -> Upload:
    """Return an upload as the worker takes it over that replaces a dead one."""
    return replace(upload, heirs=upload.heirs + 1)


def _lost(upload: Upload, why: str) -> Warned:
    return Warned(
        upload.trial_id,
        f"the checkpoint of epoch {upload.epoch} is not stored, so only this machine can go on from it while "
        f"the study runs; elsewhere or later its epochs are trained again: {' '.join(why.split()):.400}",
    )
