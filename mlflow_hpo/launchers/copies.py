"""Local copies: which sealed checkpoint files lie on a machine, and when they go."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from mlflow_hpo.launchers.uploader import Upload

LIMIT = 10 << 30  # bytes


@dataclass(slots=True)
class _Copy:
    upload: Upload
    pending: bool = True  # not in the store yet


class LocalCopies:
    """The sealed files of a study's trials on one machine: at most the newest of each, and its best.

    The newest stays when it is stored, so that the trial goes on from it without a download; the oldest ones
    of what is stored go when all together are larger than `limit`. The best epoch's goes once it is stored.
    A file that is not stored yet goes only when a newer one of its trial takes its place, which calls its
    upload off.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._copies: list[_Copy] = []  # oldest first
        self._over: set[int] = set()
        self._best = (-1, 0)  # trial and epoch of the study's best value

    def best(self, trial_id: int, epoch: int) -> None:
        """Note the study's best value: the upload of its checkpoint is never called off."""
        self._best = (trial_id, epoch)

    def queued(self, upload: Upload, running: Container[int]) -> None:
        """Note a file that was sealed; `running` are the trials whose copies may be read at present."""
        self._over.discard(upload.trial_id)
        if upload.newest:
            for copy in [copy for copy in self._copies if copy.upload.trial_id == upload.trial_id]:
                is_best = (copy.upload.trial_id, copy.upload.epoch) == self._best
                if copy.upload.path != upload.path and not (copy.pending and is_best):
                    self._remove(copy)
        self._copies = [copy for copy in self._copies if copy.upload.path != upload.path]
        self._copies.append(_Copy(upload))
        self._trim(running)

    def settled(self, upload: Upload, running: Container[int]) -> None:
        """Note that an upload is over."""
        for copy in [copy for copy in self._copies if copy.upload.path == upload.path]:
            copy.pending = False
            if upload.trial_id in self._over or not self._is_newest(copy):
                self._remove(copy)
        self._trim(running)

    def forget(self, trial_id: int) -> None:
        """Remove the files of a trial that will not go on, each as soon as it is stored."""
        self._over.add(trial_id)
        for copy in list(self._copies):
            if copy.upload.trial_id == trial_id and not copy.pending:
                self._remove(copy)

    def _is_newest(self, copy: _Copy) -> bool:
        trial_id = copy.upload.trial_id
        newest = [
            other for other in self._copies if other.upload.trial_id == trial_id and other.upload.newest
        ]
        return bool(newest) and newest[-1] is copy

    def _trim(self, running: Container[int]) -> None:
        size = sum(copy.upload.size for copy in self._copies)
        for copy in list(self._copies):
            if size <= self._limit:
                return
            if not copy.pending and copy.upload.trial_id not in running:
                size -= copy.upload.size
                self._remove(copy)

    def _remove(self, copy: _Copy) -> None:
        self._copies.remove(copy)
        copy.upload.path.unlink(missing_ok=True)
