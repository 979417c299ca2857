"""What a study that goes on began with: the history that it kept, or else what its sources hold now."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow

from mlflow_hpo.metalearning.history import History
from mlflow_hpo.metalearning.kept import KEPT, digest, kept, read_kept
from mlflow_hpo.metalearning.mined import DAMAGED
from mlflow_hpo.metalearning.mining import GONE, mine_again
from mlflow_hpo.metalearning.rules import Rules
from mlflow_hpo.metalearning.warm_start import RECORD, WarmStart
from mlflow_hpo.patience import impatient
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.connect import ask


@dataclass(frozen=True, slots=True)
class Begun:
    """What a study that goes on began with.

    Attributes:
        warm_start: that.
        artifacts: what its parent run is to hold from now on.
        notes: what the user should know, line by line.
    """

    warm_start: WarmStart
    artifacts: Mapping[str, str | bytes]
    notes: tuple[str, ...] = ()


def begun(
    run_id: str,
    sources: Sequence[str],
    *,
    metric: str,
    mode: str,
    space: SearchSpace,
    max_resource: int,
    facts: Mapping[str, str],
    rules: Rules,
) -> Begun:
    """Return what the study with this parent run began with.

    Versions that did not keep the history recorded its sources: these are read once more, and hold the same,
    unless they went on meanwhile, or are gone. Then the search goes on with what there is, and says so.

    Args:
        run_id: the parent run.
        sources: what its search.yaml names; none where it looked, and found nothing.
        metric, mode, space, max_resource, facts, rules: as `WarmStart.mined` takes them.

    Raises:
        StudyError: the stores cannot be used.
    """

    def of(history: History, asked: tuple[str, ...] | None) -> WarmStart:
        return WarmStart.of(history, asked, space=space, max_resource=max_resource, facts=facts)

    artifacts = _artifacts(run_id)
    notes = []
    if KEPT in artifacts:
        try:
            return Begun(of(*read_kept(artifacts[KEPT], mode=mode, space=space)), {})
        except ValueError as error:
            notes.append(f"warm start: {KEPT} is damaged ({error}); its sources are read again")
    record = _record(artifacts.get(RECORD, b""))
    asked = record.get("sources")
    asked = tuple(map(str, asked)) if isinstance(asked, list) else None
    if not sources:
        return Begun(of(History([], mode=mode), asked), {}, tuple(notes))
    history = mine_again(sources, metric=metric, mode=mode, space=space, rules=rules, own=run_id)
    found = of(history, asked)
    if digest(history) != record.get("sha256"):
        gone = f", {history.skipped[GONE]} of them gone" if history.skipped.get(GONE) else ""
        notes.append(
            f"warm start: its sources no longer hold what the study began with{gone}; it goes on with {found}"
        )
    content = kept(history, asked)
    return Begun(found, {} if content is None else {KEPT: content}, tuple(notes))


def _artifacts(run_id: str) -> dict[str, bytes]:
    """Return the record of the warm start and the history, as far as the study has them."""
    read = {}
    with impatient(), tempfile.TemporaryDirectory() as folder:
        problem = f"artifact store: cannot list the artifacts of run {run_id}"
        files = ask(problem, mlflow.artifacts.list_artifacts, run_id=run_id)
        listed = {each.path for each in files if not each.is_dir}
        for path in sorted(listed & {KEPT, RECORD}):
            problem = f"artifact store: cannot read {path} of run {run_id}"
            file = ask(
                problem,
                mlflow.artifacts.download_artifacts,
                artifact_uri=f"runs:/{run_id}/{path}",
                dst_path=folder,
            )
            read[path] = Path(file).read_bytes()
    return read


def _record(content: bytes) -> Mapping[str, Any]:
    """Return the record of a warm start; it may be empty."""
    try:
        found = json.loads(content)
    except DAMAGED:
        return {}
    return found if isinstance(found, Mapping) else {}
