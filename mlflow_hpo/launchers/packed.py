"""The packed launcher: worker processes that each train several trials at once, as packs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow_hpo.checks import whole_number
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.launchers.base import Ended, Event, Reported, Services, Slot
from mlflow_hpo.launchers.host_cores import usable_cores
from mlflow_hpo.launchers.local import Work, Worker, WorkerPool
from mlflow_hpo.launchers.pack_worker import Probation
from mlflow_hpo.launchers.slots import slots_here, visible_gpus
from mlflow_hpo.packing import Packable

SLACK = 4  # trials that a worker may have more than another before it no longer attracts its like


class PackedLauncher(WorkerPool):
    """Trains up to `workers` trials at a time on this machine, those that fit together as one batched model.

    All of them are divided among a few processes, one for each GPU, or for each CPU core; trials of one
    process whose `Packable.pack_key` is the same are a pack. The search never chooses by what is running: it
    is asked for as many jobs as there are places, and each job only goes to the process that suits it.

    A trial that is killed takes its process along; the others in it are handed out again, and this counts
    for nothing. If a process dies by itself, nobody knows over which trial: its trials are handed out again,
    too, and from then on one of them at a time joins others that are above suspicion. So a trial that kills
    its process does so once unknown, and then is known.

    Args:
        workers: how many trials are trained at a time.
        processes: how many processes train them; None for one for each GPU, or each core without any.
        gpus_per_trial: 0 for none; trials of a pack share their GPU, so no other number makes sense.

    Raises:
        ConfigError: `workers` or `processes` is not 1 or more, or `gpus_per_trial` is neither 0 nor None.
    """

    program = "mlflow_hpo.launchers.pack_worker"

    def __init__(
        self, workers: int, *, processes: int | None = None, gpus_per_trial: float | None = None
    ) -> None:
        if workers < 1:
            raise ConfigError("workers", f"must be 1 or more, got {workers}")
        if gpus_per_trial not in (None, 0):
            raise ConfigError(
                "gpus_per_trial",
                "must be 0 or left out with the launcher packed, whose trials share GPUs, "
                f"got {gpus_per_trial:g}",
            )
        number = process_count(workers, gpus_per_trial)
        if processes is not None:
            number = min(workers, whole_number("processes", processes, at_least=1))
        homes = slots_here(number, gpus_per_trial)
        super().__init__(_places(homes, workers), homes)
        self._trainable: Packable | None = None
        self._suspects: set[int] = set()  # trials that were there when a process died, or hung
        self._held: set[int] = set()  # those of them that a worker is not told of yet

    def check(self, trainable: Any) -> None:
        """Raise ConfigError for training code that cannot train several trials at once."""
        super().check(trainable)
        if not isinstance(trainable, Packable):
            raise ConfigError(
                "launcher",
                "packed needs training code that can train several trials at once, the bundled training or a "
                f"PackedTrainable; {type(trainable).__name__} is neither, so use local",
            )

    def start(self, trainable: Any, services: Services, folder: Path) -> None:
        """Start all worker processes."""
        self._trainable = trainable
        super().start(trainable, services, folder)

    def slot_for(self, params: Mapping[str, Any]) -> Slot:
        """Return a slot of the worker that trains most of a configuration's like, unless others have less
        to do.
        """
        free: dict[int, Slot] = {}  # the first free one of each worker
        for slot in self._free_slots():
            free.setdefault(self._home(slot), slot)
        if not free:
            raise RuntimeError("no slot is free")
        busy = {number: len(self._workers[number].works) for number in free}
        most = min(busy.values()) + SLACK
        key = self._key(params)
        like = {
            number: Counter(self._key(work.job.params) for work in self._workers[number].works.values())[key]
            for number in free
            if busy[number] <= most
        }
        return free[max(like, key=lambda number: (like[number], -busy[number]))]

    def interrupt(self, trial_id: int) -> None:
        """Let a trial end at once, in mid-epoch if need be."""
        if trial_id in self._held and (found := self._of(trial_id)) is not None:
            self._release(*found)  # it ends without having begun
        super().interrupt(trial_id)

    def kill(self, trial_id: int, reason: str) -> None:
        """Kill the process of a trial. Where several of its trials are killed, one may hang and keep the
        others.
        """
        super().kill(trial_id, reason)
        if (found := self._of(trial_id)) is not None and len(killed := found[0].killed) > 1:
            self._suspects.update(killed)

    def _hand(self, worker: Worker, work: Work) -> None:
        self._held.discard(work.job.trial_id)
        if work.job.trial_id not in self._suspects:
            super()._hand(worker, work)
        elif self._on_trial(worker) - {work.job.trial_id}:
            self._held.add(work.job.trial_id)
        else:
            self._send(worker, Probation(work.job.trial_id))
            super()._hand(worker, work)

    def _release(self, worker: Worker, work: Work) -> None:
        self._held.discard(work.job.trial_id)
        self._send(worker, work.job)

    def _heard(self, worker: Worker, message: object) -> list[Event]:
        events = super()._heard(worker, message)
        if isinstance(message, Reported | Ended) and message.trial_id in self._suspects:
            self._suspects.discard(message.trial_id)
            for work in list(worker.works.values()):  # the next one
                if work.job.trial_id in self._held:
                    self._hand(worker, work)
        return events

    def _blamed(self, worker: Worker) -> set[int]:
        trials = super()._blamed(worker)
        if len(trials) <= 1:
            return trials
        on_trial = self._on_trial(worker)
        if not on_trial:
            self._suspects.update(trials)
        return on_trial

    def _on_trial(self, worker: Worker) -> set[int]:
        """Return the suspect that a worker has begun with, if any."""
        return {work.job.trial_id for work in worker.works.values()} & self._suspects - self._held

    def _key(self, params: Mapping[str, Any]) -> Hashable:
        if self._trainable is None:
            return None
        try:
            return self._trainable.pack_key(params)
        except Exception:  # noqa: BLE001 - the worker fails that trial, and tells why
            return None


def process_count(workers: int, gpus_per_trial: float | None) -> int:
    """Return how many processes train so many trials where nobody says how many."""
    gpus = 0 if gpus_per_trial == 0 else len(visible_gpus())
    return min(gpus or usable_cores(), workers)


def _places(homes: list[Slot], workers: int) -> list[Slot]:
    """Divide what each process has among its trials."""
    shares = Counter(number % len(homes) for number in range(workers))
    return [
        replace(homes[at % len(homes)], number=at, gpus=homes[at % len(homes)].gpus / shares[at % len(homes)])
        for at in range(workers)
    ]
