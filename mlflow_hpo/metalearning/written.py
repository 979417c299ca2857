"""What studies wrote down for later ones: read from many at a time, and of each only once."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_hpo.errors import StudyError
from mlflow_hpo.metalearning.cache import Cache, cache_folder
from mlflow_hpo.tracking.connect import ask, impatient, reach_artifacts
from mlflow_hpo.tracking.history import HISTORY, SCHEMA, WRITTEN

_FACTS = "data.json"
_THREADS = 8
DAMAGED = (KeyError, TypeError, ValueError, OverflowError, RecursionError)  # what a damaged record brings


@dataclass(frozen=True, slots=True)
class Written:
    """What a study wrote down: facts about its data, and its trials, of which some may be malformed."""

    facts: Mapping[str, Any]
    trials: list[Any]


def written(studies: Sequence[Run]) -> Generator[Written | Exception, None, None]:
    """Yield what each of the studies wrote down, in their order.

    Where it cannot be read that is a StudyError; where it is not whole, one of `DAMAGED`. Nothing is raised.

    Args:
        studies: parent runs with the tag `WRITTEN`.
    """
    uri = mlflow.get_tracking_uri()
    with Cache(uri, cache_folder()) as cache, impatient():
        known = [cache.get(study.info.run_id, _state(study)) for study in studies]
        unknown = [study for study, text in zip(studies, known, strict=True) if text is None]
        reached: set[str] = set()
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="mlflow-hpo-history")
        try:
            # the first one alone: clients of stores are made on the way, which threads must not do together
            texts = (
                text
                for part in (unknown[:1], unknown[1:])
                for text in pool.map(lambda study: _text(study, uri, reached), part)
            )
            for study, text in zip(studies, known, strict=True):
                yield _read(study, text if text is not None else next(texts), cache)
        finally:
            pool.shutdown(cancel_futures=True)


def _read(study: Run, text: str | Exception, cache: Cache) -> Written | Exception:
    """Return what the text says, and keep it if it is whole."""
    if isinstance(text, Exception):
        return text
    try:
        read = json.loads(text)
        history, facts = read["history"], read["facts"]
        trials = history["trials"]
        whole = history["schema"] == SCHEMA and len(trials) == int(study.data.tags[WRITTEN])
        if not (whole and isinstance(trials, list) and isinstance(facts, Mapping)):
            raise ValueError("not what was written")
    except DAMAGED as error:
        return error
    cache.put(study.info.run_id, _state(study), text)
    return Written(facts, trials)


def _state(study: Run) -> str:
    """Return what changes with what a study has written."""
    return f"{study.info.end_time} {study.data.tags[WRITTEN]}"


def _text(study: Run, uri: str, reached: set[str]) -> str | Exception:
    """Return the artifacts of a study as one JSON text.

    Args:
        study: the parent run.
        uri: of the tracking store.
        reached: places of artifact stores that answered; one more is added.
    """
    location = study.info.artifact_uri
    place = "{0.scheme}://{0.netloc}".format(urlsplit(location))
    try:
        if place not in reached:
            reach_artifacts(location)
            reached.add(place)
        repository = get_artifact_repository(location, tracking_uri=uri)
        texts = {}
        with tempfile.TemporaryDirectory() as folder:
            for path in (HISTORY, _FACTS):
                problem = f"artifact store: cannot read {path} of run {study.info.run_id}"
                file = ask(problem, repository.download_artifacts, path, folder)
                texts[path] = json.loads(Path(file).read_text(encoding="utf-8"))
        return json.dumps({"history": texts[HISTORY], "facts": texts[_FACTS]}, separators=(",", ":"))
    except (StudyError, *DAMAGED) as error:
        return error
