"""Staging: the checkpoint files of one trial on the machine that it runs on."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlflow_hpo.checkpoint_files import copy_checked, epoch_of, name_of, sha256_of

STAGED = ".staged"
PARTIAL = ".partial"
FETCHED = "fetched-"


class Staging:
    """A folder of checkpoint files, shared by all jobs of a trial on this machine, one after the other.

    A file is *staged* by copying it here, which is all that the training waits for, and *sealed* when it
    is wanted for longer than until the next epoch: then its name tells its SHA-256. Nobody changes a sealed
    file; the launcher says when it goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def stage(self, epoch: int, path: Path) -> None:
        """Take a copy of `path` as the checkpoint of `epoch`."""
        partial = self.folder / f"epoch-{epoch:04d}{PARTIAL}"
        shutil.copyfile(path, partial)
        partial.replace(self._staged(epoch))  # a half-written file is never taken for a checkpoint

    def staged(self) -> list[int]:
        """Return the epochs of the staged files that are not sealed, ascending."""
        return sorted(
            int(path.name.removesuffix(STAGED).removeprefix("epoch-"))
            for path in self.folder.glob(f"epoch-*{STAGED}")
        )

    def drop(self, epoch: int) -> None:
        """Remove a staged file."""
        self._staged(epoch).unlink(missing_ok=True)

    def seal(self, epoch: int) -> Path:
        """Give a staged file its lasting name and return its path."""
        staged = self._staged(epoch)
        return staged.rename(self.folder / name_of(epoch, sha256_of(staged)))

    def sealed(self) -> list[tuple[int, Path]]:
        """Return (epoch, path) of the sealed files, newest epoch first."""
        found = ((epoch_of(path.name), path) for path in self.folder.iterdir())
        return sorted(((epoch, path) for epoch, path in found if epoch is not None), reverse=True)

    def fetch(self, path: Path) -> Path:
        """Return a copy of a sealed file for the training, which may do with it what it likes.

        Raises:
            CorruptCheckpointError: it is not what was sealed.
            FileNotFoundError: it is gone.
        """
        target = self.folder / f"{FETCHED}{path.name}"
        copy_checked(path, target)
        return target

    def clear(self) -> None:
        """Remove what is of no use once the job is over: all but the sealed files."""
        for path in self.folder.iterdir():
            if path.name.endswith((STAGED, PARTIAL)) or path.name.startswith(FETCHED):
                path.unlink(missing_ok=True)

    def _staged(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}{STAGED}"
