"""Checkpoints of a trial in its run's artifact root, wherever that is; each carries its SHA-256 in its
name.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_hpo.errors import CorruptCheckpointError

FOLDER = "checkpoints"
NAME = re.compile(r"^epoch-(?P<epoch>\d+)\.(?P<sha256>[0-9a-f]{64})\.ckpt$")


class ArtifactCheckpoints:
    """Stores checkpoints as ``checkpoints/epoch-0009.<sha256>.ckpt`` below an artifact URI.

    The hash in the name makes a checkpoint one object, written once: a torn or altered one does not match
    its name, and nothing is ever overwritten.

    Args:
        artifact_uri: root of the run's artifacts: a path, ``mlflow-artifacts:/...``, ``s3://...``.
        tracking_uri: the tracking server, which serves ``mlflow-artifacts:`` URIs.
    """

    def __init__(self, artifact_uri: str, tracking_uri: str) -> None:
        self._repository = get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)

    def upload(self, epoch: int, path: Path) -> str:
        """Store the file at `path` as the checkpoint of `epoch`; return its name once it is safe."""
        name = f"epoch-{epoch:04d}.{_sha256(path)}.ckpt"
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            named = Path(folder) / name
            try:
                named.hardlink_to(path)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, named)
            self._repository.log_artifact(str(named), FOLDER)
        return name

    def names(self) -> list[tuple[int, str]]:
        """Return (epoch, name) of all stored checkpoints, newest epoch first."""
        found = []
        for info in self._repository.list_artifacts(FOLDER):
            name = info.path.rsplit("/", 1)[-1]
            if match := NAME.match(name):
                found.append((int(match["epoch"]), name))
        return sorted(found, reverse=True)

    def download(self, name: str, folder: Path) -> Path:
        """Fetch a checkpoint into `folder`.

        Raises:
            CorruptCheckpointError: it does not have the SHA-256 that it was stored with.
        """
        match = NAME.match(name)
        if match is None:
            raise CorruptCheckpointError(f"{name!r:.200} is not the name of a checkpoint")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            fetched = Path(self._repository.download_artifacts(f"{FOLDER}/{name}", scratch))
            if (actual := _sha256(fetched)) != match["sha256"]:
                raise CorruptCheckpointError(f"{name} has the SHA-256 {actual}")
            path = folder / f"fetched-{name}"
            fetched.replace(path)
        return path

    def delete(self, name: str) -> None:
        """Remove a checkpoint; one that is gone already is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._repository.delete_artifacts(f"{FOLDER}/{name}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
