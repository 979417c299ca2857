"""What training code offers that can train several trials at once, and how it trains one alone."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from mlflow_hpo.trial import Trial

M = TypeVar("M")


@dataclass(frozen=True)
class Trained(Generic[M]):
    """What an epoch made of one trial.

    Attributes:
        member: the trial now.
        metrics: of the epoch, to be reported.
        failure: why the trial cannot go on; "" if it can.
    """

    member: M
    metrics: dict[str, float]
    failure: str = ""


class Packs(Protocol[M]):
    """Trains the trials of a study on one device, one pack at a time; used by one thread.

    A *member* is one trial between two epochs. Nothing changes it: an epoch makes a new one. So an epoch that
    raises, or is broken off by an exception from outside, is as if it had not begun, and trials join a pack
    and leave it between any two epochs.
    """

    def begin(self, params: Mapping[str, Any], seed: int, checkpoint: Path | None) -> M:
        """Return a trial as it is before its first epoch, or as a checkpoint has it.

        Raises:
            Exception: what the trial fails with.
        """

    def epoch(self, members: Sequence[M]) -> list[Trained[M]]:
        """Train trials for one epoch; what becomes of each does not depend on the others.

        Args:
            members: of one `Packable.pack_key`; at least one.

        Raises:
            Exception: what all of them fail with. Where memory was lacking, it is tried with half of them.
        """

    def save(self, member: M, epoch: int, path: Path) -> None:
        """Write the checkpoint of a trial after `epoch` to `path`."""


@runtime_checkable
class Packable(Protocol):
    """Training code that can train several trials at once; as a function of one `Trial` it trains one."""

    def __call__(self, trial: Trial) -> object:
        """Train one trial alone."""

    def pack_key(self, params: Mapping[str, Any]) -> Hashable:
        """Return what is the same for trials that can be trained together.

        Called in the driver's process, so it should not need the device, and be quick.

        Raises:
            Exception: the configuration is wrong; then its trial fails by itself.
        """

    def packs(self, device: str) -> Packs[Any]:
        """Return what trains on a device. Called once in each process that trains."""


def train_alone(packs: Packs[M], trial: Trial) -> None:
    """Train one trial as a pack of one, with a checkpoint at each epoch.

    Raises:
        RuntimeError: it cannot go on; its last metrics are reported.
    """
    member = packs.begin(trial.params, trial.seed, trial.load_checkpoint())
    with tempfile.TemporaryDirectory(prefix="mlflow-hpo-training-") as folder:
        path = Path(folder) / "checkpoint"
        for epoch in trial.epochs():
            (trained,) = packs.epoch([member])
            member = trained.member
            if trained.failure:
                trial.report(epoch, **trained.metrics)
                raise RuntimeError(f"{trained.failure} in epoch {epoch}")
            packs.save(member, epoch, path)
            trial.save_checkpoint(path)
            trial.report(epoch, **trained.metrics)
