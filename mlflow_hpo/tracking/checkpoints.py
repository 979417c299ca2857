"""Checkpoints of a trial in its run's artifact root, wherever that is; each carries its SHA-256 in its
name.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_hpo.checkpoint_files import check, epoch_of, name_of, sha256_of
from mlflow_hpo.errors import CorruptCheckpointError
from mlflow_hpo.tracking.away import in_one_line
from mlflow_hpo.tracking.multipart import abort_abandoned

FOLDER = "checkpoints"


class ArtifactCheckpoints:
    """Stores checkpoints as ``checkpoints/epoch-0009.<sha256>.ckpt`` below an artifact URI.

    The hash in the name makes a checkpoint one object, written once: a torn or altered one does not match
    its name, and nothing is ever overwritten by anything else.

    Every method raises StoreAwayError where trying again later makes sense, and StudyError where the store
    refuses for good.

    Args:
        artifact_uri: root of the run's artifacts: a path, ``mlflow-artifacts:/...``, ``s3://...``.
        tracking_uri: the tracking server, which serves ``mlflow-artifacts:`` URIs.
    """

    def __init__(self, artifact_uri: str, tracking_uri: str) -> None:
        self._root = artifact_uri
        self._repository = get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)

    def upload(self, epoch: int, path: Path) -> str:
        """Store the file at `path` as the checkpoint of `epoch`; return its name once it is safe.

        Raises:
            CorruptCheckpointError: `path` has the name of a checkpoint, and not its content.
        """
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="upload-") as folder:
            held = Path(folder) / "held"  # `path` may be removed meanwhile
            try:
                held.hardlink_to(path)
            except FileNotFoundError:
                raise
            except OSError:  # a file system without hard links
                shutil.copyfile(path, held)
            if epoch_of(path.name) is not None:
                check(held, path.name)
                name = path.name
            else:
                name = name_of(epoch, sha256_of(held))
            named = held.rename(held.with_name(name))
            size = named.stat().st_size
            with in_one_line(f"cannot store the checkpoint of epoch {epoch}"):
                self._repository.log_artifact(str(named), FOLDER)
        abort_abandoned(self._root, FOLDER, stored=name, size=size)
        return name

    def names(self) -> list[tuple[int, str]]:
        """Return (epoch, name) of all stored checkpoints, newest epoch first."""
        return sorted(((epoch_of(name) or 0, name) for name in self.sizes()), reverse=True)

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of all stored checkpoints, by name; 0 where the store does not tell."""
        with in_one_line("cannot list the checkpoints"):
            infos = self._repository.list_artifacts(FOLDER)
        found = {info.path.rsplit("/", 1)[-1]: info.file_size or 0 for info in infos}
        return {name: size for name, size in found.items() if epoch_of(name) is not None}

    def download(self, name: str, folder: Path) -> Path:
        """Fetch a checkpoint into `folder`.

        Raises:
            CorruptCheckpointError: it does not have the SHA-256 that it was stored with.
        """
        if epoch_of(name) is None:
            raise CorruptCheckpointError(f"{name!r:.200} is not the name of a checkpoint")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            fetched = Path(scratch) / name
            with in_one_line(f"cannot fetch the checkpoint of epoch {epoch_of(name)}"):
                # download_artifacts would ask for a listing first, and tell no more than that it failed
                self._repository._download_file(f"{FOLDER}/{name}", str(fetched))
            check(fetched, name)
            path = folder / f"fetched-{name}"
            fetched.replace(path)
        return path

    def delete(self, name: str) -> None:
        """Remove a checkpoint; one that is gone already is fine."""
        with contextlib.suppress(FileNotFoundError), in_one_line(f"cannot remove {name}"):
            self._repository.delete_artifacts(f"{FOLDER}/{name}")
