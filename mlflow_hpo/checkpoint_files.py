"""Checkpoint files: named by epoch and content, so that a torn or altered one does not match its name."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from mlflow_hpo.errors import CorruptCheckpointError

NAME = re.compile(r"^epoch-(?P<epoch>\d+)\.(?P<sha256>[0-9a-f]{64})\.ckpt$")
CHUNK = 1 << 20  # bytes


def name_of(epoch: int, sha256: str) -> str:
    """Return the name of the checkpoint of `epoch` with this content.

    >>> name_of(9, "0" * 64)
    'epoch-0009.0000000000000000000000000000000000000000000000000000000000000000.ckpt'
    """
    return f"epoch-{epoch:04d}.{sha256}.ckpt"


def epoch_of(name: str) -> int | None:
    """Return the epoch that the name of a checkpoint tells; None if it is not one."""
    match = NAME.match(name)
    return None if match is None else int(match["epoch"])


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, name: str) -> None:
    """Compare a file with what its name says.

    Raises:
        CorruptCheckpointError: it has another content, or `name` is not one of a checkpoint.
    """
    _compare(name, sha256_of(path))


def copy_checked(path: Path, target: Path) -> None:
    """Copy a checkpoint that carries its name to `target`, which is there only if the content is right.

    Raises:
        CorruptCheckpointError: it is not what its name says.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as source, target.open("wb") as copy:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                copy.write(chunk)
        _compare(path.name, digest.hexdigest())
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _compare(name: str, actual: str) -> None:
    match = NAME.match(name)
    if match is None:
        raise CorruptCheckpointError(f"{name!r:.200} is not the name of a checkpoint")
    if actual != match["sha256"]:
        raise CorruptCheckpointError(f"{name} has the SHA-256 {actual}")
