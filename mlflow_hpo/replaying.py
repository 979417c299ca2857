"""Replaying: one recorded trial is trained again, and its metrics are compared with the recorded ones."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.launchers.base import Ended, Outcome, Reported, Trainable, TrialJob
from mlflow_hpo.launchers.local import WorkerPool
from mlflow_hpo.launchers.nowhere import Nowhere
from mlflow_hpo.launchers.slots import slots_here
from mlflow_hpo.scratch import scratch_folder
from mlflow_hpo.signals import interruptible
from mlflow_hpo.tracking.rerunning import PastTrial, read_trial

TOLERANCE = 1e-6
TIME = re.compile(
    r"(^|_)(seconds|per_second|ms)$"
)  # end the names of metrics that no two trainings have alike
TICK = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Difference:
    """The first value that is another; `again` is None where the metric was not reported."""

    epoch: int
    metric: str
    recorded: float
    again: float | None


@dataclass(frozen=True, slots=True)
class Replay:
    """How a trial that was trained again compares with what is recorded of it.

    Attributes:
        trial: as it is recorded.
        device: that it was trained on now.
        epochs: that were trained and compared.
        metrics: that were compared.
        tolerance: within which two values match, relative and absolute.
        difference: the first one, None if there is none.
    """

    trial: PastTrial
    device: str
    epochs: int
    metrics: tuple[str, ...]
    tolerance: float
    difference: Difference | None


def replay(
    run_id: str,
    *,
    metrics: Sequence[str] = (),
    tolerance: float = TOLERANCE,
    tell: Callable[[str], None] = lambda line: None,
) -> Replay:
    """Train a trial again from its beginning, in a process of its own, up to where its record ends.

    Nothing is written to MLflow, and no checkpoint is kept. It ends with the first epoch that differs.

    Args:
        run_id: the run of the trial.
        metrics: to compare; all by default whose names do not tell of a time (``epoch_seconds``).
        tolerance: values match that differ by no more than this, relatively or absolutely; NaN matches NaN.
        tell: hears one line about each epoch.

    Raises:
        ConfigError: it is no trial of a study, its training cannot be had here, or it has no such metric.
        StudyError: the stores are unreachable, or the training failed now.
        KeyboardInterrupt: SIGINT or SIGTERM came.
    """
    trial = read_trial(run_id)
    for name in metrics:
        if name not in trial.curves:
            raise ConfigError(
                "metric", f"the trial has none called {name!r:.80}; it has {', '.join(trial.curves)}"
            )
    if trial.epochs == 0:
        raise StudyError(f"trial {trial.trial_id} has reported nothing that could be compared")
    train = _training(trial)
    untimed = [name for name in trial.curves if not TIME.search(name)]
    chosen = sorted(metrics or untimed, key=lambda name: (name != trial.metric, name))
    launcher = WorkerPool(slots_here(1, None, trial.threads))
    launcher.check(train)
    stop = _Stop(launcher)
    epoch, difference = 0, None
    with scratch_folder() as folder, contextlib.closing(launcher), interruptible(stop):
        launcher.start(train, Nowhere(), folder)
        slot = launcher.slots[0]
        location = str(folder)
        job = TrialJob(0, trial.params, 0, trial.epochs, trial.seed, location, run_id="again")
        launcher.submit(slot, job)
        while True:
            for event in launcher.wait(TICK):
                match event:
                    case Reported(_, epoch, values):
                        difference = difference or _compared(trial, epoch, values, chosen, tolerance)
                        tell(_in_words(trial, epoch, values))
                        launcher.reply(0, go_on=difference is None, best=False)
                    case Ended(_, outcome, _, reason):
                        if stop.asked:
                            raise KeyboardInterrupt
                        if difference is None and (outcome is Outcome.FAILED or epoch < trial.epochs):
                            why = reason or "it returned early"
                            raise StudyError(
                                f"the training failed after epoch {epoch} of {trial.epochs}: {why}"
                            )
                        return Replay(trial, slot.device, epoch, tuple(chosen), tolerance, difference)


def _compared(
    trial: PastTrial, epoch: int, values: Mapping[str, float], metrics: Sequence[str], tolerance: float
) -> Difference | None:
    for name in metrics:
        recorded = trial.curves[name].get(epoch)
        again = values.get(name)
        if recorded is None or (again is not None and _same(recorded, again, tolerance)):
            continue
        return Difference(epoch, name, recorded, again)
    return None


def _same(recorded: float, again: float, tolerance: float) -> bool:
    if math.isnan(recorded) or math.isnan(again):
        return math.isnan(recorded) and math.isnan(again)
    return math.isclose(recorded, again, rel_tol=tolerance, abs_tol=tolerance)


def _in_words(trial: PastTrial, epoch: int, values: Mapping[str, float]) -> str:
    value = values.get(trial.metric)
    return f"epoch {epoch} of {trial.epochs}" + ("" if value is None else f": {trial.metric} {value:.6g}")


def _training(trial: PastTrial) -> Trainable:
    """Return what trains the trial, as its study did."""
    if trial.keys.get("launcher", "local") == "project":
        raise ConfigError(
            "trial_run_id",
            f"is of an MLflow project ({trial.facts['data']}), whose script this does not run; `mlflow run` "
            "runs it with these parameters: "
            + shlex.join(word for name, value in trial.params.items() for word in ("-P", f"{name}={value}")),
        )
    if "data.sha256" in trial.facts:
        return _bundled(trial)
    return _imported(trial.facts["data"])


def _bundled(trial: PastTrial) -> Trainable:
    from mlflow_hpo.training.bundled import BundledTraining

    keys = trial.keys
    train = BundledTraining(
        keys.get("data", "digits"), keys.get("target"), seed=keys["seed"], max_epochs=keys["max_resource"]
    )
    train.prepare()
    if (now := train.describe()["data.sha256"]) != trial.facts["data.sha256"]:
        raise ConfigError(
            "data", f"{train.data} has changed since: its SHA-256 was {trial.facts['data.sha256']}, is {now}"
        )
    return train


def _imported(name: str) -> Trainable:
    """Return a function by the name that its study recorded; of a script it is no more than its own."""
    module, _, function = name.rpartition(".")
    if not module:
        raise ConfigError(
            "trial_run_id",
            f"was trained by the function {name!r:.80} of a script, which cannot be imported; put it into a "
            "module to be able to replay trials",
        )
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Trainable = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "trial_run_id",
            f"was trained by {name!r:.200}, which cannot be imported here: {error} (this folder was "
            "searched, too)",
        ) from None
    return found


class _Stop:
    """Interrupts the training at the first signal."""

    def __init__(self, launcher: WorkerPool) -> None:
        self._launcher = launcher
        self.asked = False

    def __call__(self) -> None:
        self.asked = True
        self._launcher.kill(0, "interrupted")
