"""What studies wrote down for later ones: read from many at a time, and of each only once."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_hpo.errors import StudyError
from mlflow_hpo.metalearning.cache import Cache
from mlflow_hpo.metalearning.mined import DAMAGED
from mlflow_hpo.metalearning.places import Places
from mlflow_hpo.patience import impatient
from mlflow_hpo.tracking.connect import ask
from mlflow_hpo.tracking.history import HISTORY, SCHEMA, WRITTEN

_FACTS = "data.json"
_THREADS = 8


@dataclass(frozen=True, slots=True)
class Written:
    """What a study wrote down: facts about its data, and its trials, of which some may be malformed."""

    facts: Mapping[str, Any]
    trials: list[Any]


def written(studies: Sequence[Run], cache: Cache) -> Generator[Written | Exception, None, None]:
    """Yield what each of the studies wrote down, in their order.

    Where it cannot be read that is a StudyError, a PlaceAwayError where that was not tried any more; where it
    is not whole, one of `DAMAGED`. Nothing is raised.

    Args:
        studies: parent runs with the tag `WRITTEN`.
        cache: of what was read before.
    """
    uri = mlflow.get_tracking_uri()
    with impatient():
        known = [_remembered(study, cache) for study in studies]
        unknown = [study for study, found in zip(studies, known, strict=True) if found is None]
        places = Places()
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="mlflow-hpo-history")
        try:
            # the first one alone: clients of stores are made on the way, which threads must not do together
            fetched = (
                found
                for part in (unknown[:1], unknown[1:])
                for found in pool.map(lambda study: _fetched(study, uri, places), part)
            )
            for study, found in zip(studies, known, strict=True):
                if found is not None:
                    yield found
                    continue
                new = next(fetched)
                if isinstance(new, Written):
                    cache.put(study.info.run_id, _state(study), _text(new))
                yield new
        finally:
            pool.shutdown(cancel_futures=True)


def _state(study: Run) -> str:
    """Return what changes with what a study has written."""
    return f"{study.info.end_time} {study.data.tags[WRITTEN]}"


def _text(found: Written) -> str:
    return json.dumps({"facts": found.facts, "trials": found.trials}, separators=(",", ":"))


def _remembered(study: Run, cache: Cache) -> Written | None:
    """Return what the study is known to have written down."""
    text = cache.get(study.info.run_id, _state(study))
    if text is None:
        return None
    try:
        found = json.loads(text)
        return _whole(study, found["facts"], found["trials"])
    except DAMAGED:
        return None


def _fetched(study: Run, uri: str, places: Places) -> Written | Exception:
    """Read the artifacts of a study.

    Args:
        study: the parent run.
        uri: of the tracking store.
        places: which artifact stores answer.
    """
    location = study.info.artifact_uri
    cannot_read = f"artifact store: cannot read {{}} of run {study.info.run_id}"
    try:
        places.reach(location)
        repository = ask(cannot_read.format(HISTORY), get_artifact_repository, location, tracking_uri=uri)
        read = {}
        with tempfile.TemporaryDirectory() as folder:
            for path in (HISTORY, _FACTS):
                try:
                    file = ask(cannot_read.format(path), repository.download_artifacts, path, folder)
                except StudyError:
                    places.not_read(location, repository)
                    raise
                read[path] = json.loads(Path(file).read_text(encoding="utf-8"))
        places.read(location)
        if read[HISTORY]["schema"] != SCHEMA:
            raise ValueError("of another version")
        return _whole(study, read[_FACTS], read[HISTORY]["trials"])
    except (StudyError, *DAMAGED) as error:
        return error


def _whole(study: Run, facts: Any, trials: Any) -> Written:
    """Return what was read of a study if it is all that it wrote down; else raise one of `DAMAGED`."""
    complete = len(trials) == int(study.data.tags[WRITTEN])
    if not (complete and isinstance(trials, list) and isinstance(facts, Mapping)):
        raise ValueError("not what was written")
    return Written(facts, trials)
