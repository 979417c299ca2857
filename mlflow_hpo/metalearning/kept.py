"""Kept: the whole history that a study began with, as an artifact, so that it goes on with the same."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlflow_hpo.metalearning.history import History, PastTask
from mlflow_hpo.metalearning.mined import DAMAGED
from mlflow_hpo.metalearning.portfolio import config_key
from mlflow_hpo.space import SearchSpace

KEPT = "warm_start_history.json.gz"  # artifact of the parent run
SCHEMA = 1

_LARGEST = 1 << 30  # characters of its text; 500 studies of 100 trials of 50 epochs take 7 % of that
_FAST = 1  # level of compression; better ones take several times as long for curves, which are hardly smaller


def digest(history: History) -> str:
    """Return what two histories have in common only if they are the same."""
    found = hashlib.sha256(b"[")
    for number, task in enumerate(history.tasks):  # not all at once: the text may be large
        plain = [
            task.name,
            [[trial.run_id, config_key(trial.config), trial.curve] for trial in task.trials],
        ]
        found.update((", " if number else "").encode() + json.dumps(plain).encode())
    found.update(b"]")
    return found.hexdigest()


def kept(history: History, sources: Sequence[str] | None) -> bytes | None:
    """Return the content of the artifact, None where it would be too large to be read again.

    Args:
        history: of configurations that the study's space contains.
        sources: where it was asked for; None for all experiments.
    """
    head = {
        "schema": SCHEMA,
        "sources": None if sources is None else list(sources),
        "studies": list(history.studies),
        "runs": list(history.runs),
        "left_out": dict(history.skipped),
        "sha256": digest(history),
    }
    content = io.BytesIO()
    size = 0
    with gzip.GzipFile(fileobj=content, mode="wb", compresslevel=_FAST, mtime=0) as file:
        for text in _texts(head, history.tasks):
            size += len(text)
            if size > _LARGEST:
                return None
            file.write(text.encode())
    return content.getvalue()


def _texts(head: Mapping[str, Any], tasks: Iterable[PastTask]) -> Iterator[str]:
    """Yield the parts of the artifact's text, one for each task: together they may be large."""
    yield f'{_written(head)[:-1]},"tasks":['
    for number, task in enumerate(tasks):
        plain = {
            "task": task.name,
            "features": dict(task.features),
            "trials": [
                {
                    "run_id": trial.run_id,
                    "config": trial.config,
                    "curve": trial.curve,
                    "failed": trial.failed,
                }
                for trial in task.trials
            ],
        }
        yield f"{',' if number else ''}{_written(plain)}"
    yield "]}"


def _written(plain: Mapping[str, Any]) -> str:
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def read_kept(content: bytes, *, mode: str, space: SearchSpace) -> tuple[History, tuple[str, ...] | None]:
    """Return the history and the sources that `kept` was given.

    Args:
        content: of the artifact, whoever may have written it.
        mode, space: of the study.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return _read(json.loads(_unpacked(content)), mode, space)
    except (EOFError, OSError, zlib.error, *DAMAGED) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{line:.200}") from None


def _unpacked(content: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError("too large")
    return text


def _read(found: Any, mode: str, space: SearchSpace) -> tuple[History, tuple[str, ...] | None]:
    if found["schema"] != SCHEMA:
        raise ValueError("of another version")
    sources = None if found["sources"] is None else _names(found["sources"])
    left_out = {str(reason): int(count) for reason, count in found["left_out"].items()}
    records = (
        {"task": task["task"], "features": task["features"], **trial}
        for task in found["tasks"]
        for trial in task["trials"]
    )
    history = History.mined(
        records,
        mode=mode,
        skipped=left_out,
        studies=_names(found["studies"]),
        runs=_names(found["runs"]),
    ).within(space)
    if digest(history) != found["sha256"]:
        raise ValueError("not what was written")
    return history, sources


def _names(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError("a list of names is none")
    return tuple(found)
