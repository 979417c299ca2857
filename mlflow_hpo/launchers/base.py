"""What a launcher is: where trials run."""

from __future__ import annotations

import enum
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.steps import Point
from mlflow_hpo.trial import Trial

Trainable = Callable[[Trial], object]

TICK = 0.5  # seconds: how often it is looked whether all is stored


class CheckpointStore(Protocol):
    """Where one trial's checkpoints are kept for good. Used by one thread at a time.

    Its methods raise StoreAwayError where trying again later makes sense.
    """

    def upload(self, epoch: int, path: Path) -> str:
        """Store the file at `path` as the checkpoint of `epoch`; return its name once it is safe.

        `path` has a name that tells epoch and SHA-256 (see `checkpoint_files`). Raises
        CorruptCheckpointError if its content is another.
        """

    def names(self) -> list[tuple[int, str]]:
        """Return (epoch, name) of all stored checkpoints, newest epoch first."""

    def download(self, name: str, folder: Path) -> Path:
        """Fetch a checkpoint into `folder`. Raises CorruptCheckpointError if it is not what was stored."""


class Monitor(Protocol):
    """Samples what the machine does while a trial runs."""

    def sample(self) -> Mapping[str, float]:
        """Return the present readings, name -> value."""


class Services(Protocol):
    """What workers need of the tracking room; pickled once to each worker, opened there."""

    def checkpoints(self, location: str) -> CheckpointStore:
        """Open the checkpoint store of the trial at `location`."""

    def monitor(self) -> Monitor:
        """Open the machine's monitor."""

    def check(self) -> None:
        """Raise StudyError if checkpoints cannot be stored from this machine, which is not the driver's."""

    def within(
        self, params: Mapping[str, Any], reported: Set[str], run_id: Callable[[], str]
    ) -> AbstractContextManager[None]:
        """Return what stands around training code in this process: what it logs by itself goes to a run.

        Args:
            params: its configuration.
            reported: names of the metrics that it reports, as they become known.
            run_id: returns the id of the run, once there is one; may be called from any thread.
        """

    def environment(self, run_id: str, present: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which what a script logs goes to a run, made of the present one."""

    def logged(self, run_id: str, metrics: Sequence[str]) -> Mapping[str, Sequence[Point]]:
        """Return all that is logged to a run of some metrics; those asked for first are read first.

        Raises StoreAwayError where trying again later makes sense, StudyError where it does not.
        """

    def last_values(self, run_id: str) -> dict[str, float]:
        """Return the last value of each metric that is logged to a run; raises as `logged` does."""

    def keep_log(self, location: str, path: Path) -> None:
        """Store a file with the output of a script in the artifacts at `location`; raises what it likes."""


@dataclass(frozen=True, slots=True)
class TrialJob:
    """One job as a worker gets it: train epochs ``start + 1 .. stop`` of one trial.

    `location` says where its checkpoints live, in the words of `Services`, and `run_id` which run is its
    trial's; both are "" if that is only known when `Launcher.located` tells. `fresh` says that nothing is
    logged to that run yet. `sample` is the number of the first sample of system metrics, so that a promoted
    trial's samples go on counting. `rung` is for the records. `reached` is the furthest epoch that the trial
    ever reported: a job that is tried again, or broken off by the end of its study, goes on from the newest
    checkpoint up to there. `watched` says whether to send a `Heartbeat`. `metric` is the name of the one that
    is optimised, for what a user is told.
    """

    trial_id: int
    params: dict[str, Any]
    start: int
    stop: int
    seed: int
    location: str
    sample: int = 0
    rung: int = 0
    run_id: str = ""
    fresh: bool = True
    reached: int = 0
    watched: bool = False
    metric: str = ""


class Outcome(enum.Enum):
    """How a job ended."""

    COMPLETED = "completed"  # reached `stop`
    STOPPED = "stopped"  # told to end at a report, or interrupted
    FAILED = "failed"  # raised, died, or timed out
    UNFINISHED = "unfinished"  # done as far as there was a slot for it; the rest is to be handed out again


class Cause(enum.Enum):
    """What made a job fail: whether it makes sense to try it again."""

    TRAINING = "training"  # its code, its configuration or a limit: it would fail again
    RESOURCES = "resources"  # it lacked memory, disk or network: another time there may be enough
    LOST = "lost"  # its process died


@dataclass(frozen=True, slots=True)
class Reported:
    """The trial reported metrics and waits for `Launcher.reply`."""

    trial_id: int
    epoch: int
    metrics: dict[str, float]
    time: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life of the training code itself: it began, loads or saves a checkpoint, or is through.

    `waits` says that until the next sign of life it waits for us.
    """

    trial_id: int
    waits: bool


@dataclass(frozen=True, slots=True)
class Sampled:
    """Readings of the machine that the trial runs on."""

    trial_id: int
    number: int
    metrics: dict[str, float]
    time: float


@dataclass(frozen=True, slots=True)
class CheckpointStored:
    """A checkpoint is safe in the store; it may come after the `Ended` of its job."""

    trial_id: int
    epoch: int
    name: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something went wrong that the trial survives, such as a corrupt checkpoint; it may come late, too."""

    trial_id: int
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is over and its slot is free again; its checkpoints may still be on their way to the store.

    `reason` is one line and `details` the end of the traceback or of the worker's output, both empty unless
    the job failed; `seconds` is the wall-clock time of the job; `cause` counts only if it failed.
    """

    trial_id: int
    outcome: Outcome
    seconds: float
    reason: str = ""
    details: str = ""
    cause: Cause = Cause.TRAINING


@dataclass(frozen=True, slots=True)
class Renewed:
    """The trial begins again and waits for a new run, which `Launcher.located` tells.

    If it `goes_on` from a checkpoint, the new run is to hold what is logged to the one before.
    """

    trial_id: int
    goes_on: bool


Event = Reported | Heartbeat | Sampled | CheckpointStored | Warned | Ended | Renewed


@dataclass(frozen=True, slots=True)
class Slot:
    """A place where one trial runs at a time."""

    number: int
    device: str  # "cuda:0" (of what `env` makes visible) or "cpu"
    gpus: float  # share of GPUs that it holds, for budgets
    env: dict[str, str] = field(default_factory=dict)

    @property
    def shares_gpu(self) -> bool:
        """Whether it holds a part of a GPU."""
        return 0 < self.gpus < 1


class Launcher(ABC):
    """Runs jobs in slots and tells what becomes of them.

    Owned by one `Study` and used by its thread only. Every submitted job ends with exactly one `Ended`,
    whatever happens to its process; what is said to a job that is over has no effect. A launcher knows
    neither MLflow nor the search: what a worker needs of them comes as `Services`.

    Attributes:
        slots: where jobs run.
        jobs_per_worker: how many jobs a worker process runs before a new one takes its place, None for any
            number; set before `start`. A launcher without lasting workers ignores it.
        trials_log: whether trials write what they report to their runs themselves.
    """

    slots: Sequence[Slot]
    jobs_per_worker: int | None = None
    trials_log: bool = False

    @abstractmethod
    def __init__(self, workers: int) -> None: ...

    @property
    def threads(self) -> int | None:
        """How many threads of the CPU a trial gets; None if nothing sets it."""
        threads = self.slots[0].env.get("OMP_NUM_THREADS")
        return None if threads is None else int(threads)

    def check(self, trainable: Any) -> None:
        """Raise ConfigError for training code that cannot be run here."""
        if not callable(trainable):
            raise ConfigError("train", f"must be a function of one Trial, got {type(trainable).__name__}")

    @abstractmethod
    def start(self, trainable: Any, services: Services, folder: Path) -> None:
        """Start the workers; `folder` is theirs to keep logs and checkpoints in transit."""

    @property
    @abstractmethod
    def free_slot(self) -> Slot | None:
        """A slot that takes a job now, or None when all are busy."""

    def slot_for(self, params: Mapping[str, Any]) -> Slot:
        """Return the free slot that suits a configuration best. Raises RuntimeError when all are busy."""
        if (slot := self.free_slot) is None:
            raise RuntimeError("no slot is free")
        return slot

    @abstractmethod
    def submit(self, slot: Slot, job: TrialJob) -> None:
        """Run a job in a free slot. Raises RuntimeError when it is not free."""

    def located(self, trial_id: int, location: str, run_id: str) -> None:  # noqa: B027 - one without them
        """Say which run is a running trial's, and where its checkpoints live, before its first `Reported` is
        answered; until then it stores none.
        """

    @abstractmethod
    def wait(self, timeout: float) -> list[Event]:
        """Wait for events and return them in order; an empty list after `timeout` seconds."""

    @abstractmethod
    def reply(self, trial_id: int, *, go_on: bool, best: bool) -> None:
        """Answer the `Reported` of a trial: whether to go on, and whether it is the study's best so far."""

    @abstractmethod
    def interrupt(self, trial_id: int) -> None:
        """Ask a running trial to store its newest checkpoint and end, in mid-epoch if need be."""

    @abstractmethod
    def kill(self, trial_id: int, reason: str) -> None:
        """End a running trial by force; it fails with `reason`."""

    @property
    def uploads(self) -> int:
        """How many checkpoints are still on their way to the store."""
        return 0

    def drain(self, timeout: float) -> list[Event]:
        """Wait until all checkpoints of jobs that ended are in the store, for at most `timeout` seconds, and
        return the events of that time; `uploads` tells how many are left.
        """
        deadline, events = time.monotonic() + timeout, []
        while self.uploads and (left := deadline - time.monotonic()) > 0:
            events += self.wait(min(left, TICK))
        return events

    def forget(self, trial_id: int) -> None:  # noqa: B027 - one that keeps no local copies has nothing to do
        """Let go of the local copies of a trial that will not go on."""

    @abstractmethod
    def close(self) -> None:
        """Store what is left, stop all workers and wait for them. May be called more than once."""
