"""Writes to the tracking store what drivers had to leave in their spools."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import StudyError
from mlflow_hpo.tracking.batch import Batch
from mlflow_hpo.tracking.connect import connect, store_name, without_passwords
from mlflow_hpo.tracking.outage import is_final, pause
from mlflow_hpo.tracking.spool import LeftSpool, left_files, spool_folder
from mlflow_hpo.tracking.transport import own_retries

VALUES = 20_000  # that are read from a spool at a time
ATTEMPTS = 6  # tries of one request

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Synced:
    """What `sync` has done."""

    values: int = 0  # points, params, tags and statuses that were written
    runs: set[str] = field(default_factory=set)  # they belong to these
    files: int = 0  # spools that are done with
    refused: dict[str, str] = field(default_factory=dict)  # run -> why the store will never take its values
    broken: int = 0  # lines that could not be read
    in_use: int = 0  # spools whose study is at work
    elsewhere: dict[str, int] = field(default_factory=dict)  # other store -> its spools

    def lines(self) -> list[str]:
        """Return it in words."""
        found = [f"{self.values} values of {len(self.runs)} runs written, from {self.files} spools"]
        found += [f"run {run_id} refused: {why}" for run_id, why in self.refused.items()]
        if self.broken:
            found.append(f"{self.broken} lines were not readable")
        if self.in_use:
            found.append(f"{self.in_use} spools left to studies that are at work")
        found += [
            f"{count} spools are for {store}: set MLFLOW_TRACKING_URI to write them"
            for store, count in self.elsewhere.items()
        ]
        return found


def sync(folder: Path | None = None, client: MlflowClient | None = None) -> Synced:
    """Write every spool below a folder that no living process uses, and remove it.

    A spool that was written in part before is written again without harm.

    Args:
        folder: where the spools are; None for the user's.
        client: of the store; None for the one that MLflow's settings name.

    Raises:
        StudyError: the store is away; what was not written stays.
    """
    done = Synced()
    for path in left_files(folder or spool_folder()):
        with contextlib.ExitStack() as stack:
            try:
                spool = stack.enter_context(LeftSpool(path))
            except BlockingIOError:
                done.in_use += 1
                continue
            except FileNotFoundError:  # another `sync` was quicker
                continue
            except (OSError, ValueError) as error:
                logger.warning("%s is left alone: %s", path, error)
                continue
            client = client or connect()
            if spool.store != store_name(str(getattr(client, "tracking_uri", ""))):
                done.elsewhere[spool.store] = done.elsewhere.get(spool.store, 0) + 1
                continue
            with own_retries():
                for chunk in spool.chunks(VALUES):
                    for run_id, batch in chunk.items():
                        if run_id not in done.refused:
                            _write(client, run_id, batch, done)
            done.broken += spool.broken
            done.files += 1
            spool.remove()
    return done


def _write(client: MlflowClient, run_id: str, batch: Batch, done: Synced) -> None:
    while (request := batch.request(client, run_id)) is not None:
        before = len(batch)
        try:
            _insist(request.send)
        except Exception as error:
            line = f"{without_passwords(' '.join(str(error).split())):.300}"
            if is_final(error) and getattr(error, "error_code", "") != "PERMISSION_DENIED":
                done.refused[run_id] = line
                return
            raise StudyError(f"MLFLOW_TRACKING_URI: cannot write what was kept: {line}") from error
        batch.written(request)
        done.values += before - len(batch)
        done.runs.add(run_id)


def _insist(send: Callable[[], Any]) -> None:
    for failures in range(1, ATTEMPTS + 1):
        try:
            send()
        except Exception as error:
            if is_final(error) or failures == ATTEMPTS:
                raise
            time.sleep(pause(failures))
        else:
            return
