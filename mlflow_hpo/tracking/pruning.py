"""Pruning: which checkpoints of a study can go, and removing them."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mlflow_hpo.checkpoint_files import epoch_of
from mlflow_hpo.errors import StudyError
from mlflow_hpo.recording import BROKEN_OFF
from mlflow_hpo.retention import Retention, StoredTrial
from mlflow_hpo.tracking.checkpoints import ArtifactCheckpoints
from mlflow_hpo.tracking.connect import ask, connect
from mlflow_hpo.tracking.lease import Lease, Renewals, driver
from mlflow_hpo.tracking.reached import reached
from mlflow_hpo.tracking.recovery import CHECKPOINTS
from mlflow_hpo.tracking.runs import check_study, found_run, trial_runs
from mlflow_hpo.tracking.summary import best_metric

_THREADS = 8


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint in the artifact store; `size` in bytes, `paused` where its trial may go on from it."""

    trial_id: int
    run_id: str
    location: str
    name: str
    size: int
    paused: bool

    @property
    def epoch(self) -> int:
        """The epoch after which it was saved."""
        return epoch_of(self.name) or 0


@dataclass(frozen=True, slots=True)
class Pruning:
    """What is to become of the checkpoints of a study."""

    run_id: str
    kept: tuple[StoredCheckpoint, ...]
    removed: tuple[StoredCheckpoint, ...]


def plan_pruning(run_id: str, keep: Retention | None, *, also_paused: bool) -> Pruning:
    """Look what is stored, and say what is to go.

    Args:
        run_id: the parent run.
        keep: what to keep; None for nothing but what paused trials need.
        also_paused: let go of what paused trials need, too: those begin again from scratch.

    Raises:
        ConfigError: `run_id` is no run, or not the parent run of a study.
        StudyError: a driver is at work on it, or the stores do not answer.
    """
    client = connect()
    parent = _parent(client, run_id)
    tags = parent.data.tags
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="mlflow-hpo-prune") as pool:
        runs = list(trial_runs(client, parent))
        stored = [each for found in pool.map(_stored, runs) for each in found]
    wanted = _wanted(runs, stored, tags, keep, also_paused=also_paused)
    kept = tuple(each for each in stored if each.epoch in wanted.get(each.trial_id, ()))
    removed = tuple(each for each in stored if each.epoch not in wanted.get(each.trial_id, ()))
    return Pruning(run_id, kept, removed)


def prune(pruning: Pruning) -> None:
    """Remove what is to go. No driver can begin meanwhile.

    Raises:
        StudyError: a driver is at work on the study, or the stores do not answer.
    """
    client = connect()
    _parent(client, pruning.run_id)
    lease = Lease(client, pruning.run_id)
    lease.take(take_over=False)
    renewals = Renewals(lease)
    try:
        left: dict[str, dict[int, str]] = defaultdict(dict)
        for each in pruning.kept:
            left[each.run_id][each.epoch] = each.name
        # the tags first: a checkpoint that nobody counts on does no harm
        for run_id in {each.run_id for each in pruning.removed}:
            names = json.dumps(left[run_id])
            ask("MLFLOW_TRACKING_URI: cannot write", client.set_tag, run_id, CHECKPOINTS, names)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="mlflow-hpo-prune") as pool:
            list(pool.map(_remove, pruning.removed))
    finally:
        renewals.end()
        with contextlib.suppress(Exception):  # it runs out by itself
            lease.release()


def _parent(client: MlflowClient, run_id: str) -> Run:
    parent = found_run(client, run_id, "run_id")
    check_study(parent, "run_id")
    if who := driver(parent.data.tags):
        raise StudyError(f"study {run_id} is driven by {who}; its checkpoints are needed")
    return parent


def _stored(run: Run) -> list[StoredCheckpoint]:
    reason = run.data.tags.get("hpo.stop_reason", "")
    paused = run.info.status in ("SCHEDULED", "RUNNING") or reason.startswith(BROKEN_OFF)
    store = ArtifactCheckpoints(run.info.artifact_uri, mlflow.get_tracking_uri())
    trial_id = int(run.data.tags["hpo.trial"])
    return [
        StoredCheckpoint(trial_id, run.info.run_id, run.info.artifact_uri, name, size, paused)
        for name, size in sorted(store.sizes().items())
    ]


def _wanted(
    runs: Iterable[Run],
    stored: Iterable[StoredCheckpoint],
    tags: Mapping[str, str],
    keep: Retention | None,
    *,
    also_paused: bool,
) -> dict[int, set[int]]:
    """Return the epochs whose checkpoints stay, by trial."""
    epochs: dict[int, set[int]] = defaultdict(set)
    needed: dict[int, int] = {}  # the newest epoch of trials that may go on
    for each in stored:
        epochs[each.trial_id].add(each.epoch)
        if each.paused and not also_paused:
            needed[each.trial_id] = max(each.epoch, needed.get(each.trial_id, 0))
    if keep is None:
        return {trial_id: {epoch} for trial_id, epoch in needed.items()}
    trials = {}
    for run in runs:
        trial_id = int(run.data.tags["hpo.trial"])
        best = run.data.metrics.get(best_metric(tags["hpo.metric"]))
        best_epoch = reached(run, tags["hpo.metric"]).best_epoch
        trials[trial_id] = StoredTrial(trial_id, trial_id in needed, best, best_epoch, epochs[trial_id])
    wanted = keep.keep(trials.values(), tags["hpo.mode"])
    if (best_trial := trials.get(int(tags.get("hpo.best_trial", -1)))) is not None:
        wanted.setdefault(best_trial.trial_id, set()).add(best_trial.best_epoch)  # of equals it was first
    return wanted


def _remove(checkpoint: StoredCheckpoint) -> None:
    ArtifactCheckpoints(checkpoint.location, mlflow.get_tracking_uri()).delete(checkpoint.name)
