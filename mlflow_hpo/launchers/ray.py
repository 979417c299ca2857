"""The Ray launcher: each slot is an actor that Ray places on whatever node has room for it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_hpo.checks import shown
from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.launchers.base import (
    Cause,
    Ended,
    Event,
    Launcher,
    Outcome,
    Services,
    Slot,
    TrialJob,
    Warned,
)
from mlflow_hpo.launchers.local import BIRTHS, LAST_UPLOADS, packed
from mlflow_hpo.launchers.processes import import_path
from mlflow_hpo.launchers.ray_cluster import Cluster, actor_options, environment, parse_resources, the_ray
from mlflow_hpo.launchers.ray_host import News, Orders, TrialHost
from mlflow_hpo.launchers.slots import on_cores

IDLE = 60.0  # seconds for which a slot without a job keeps its place in the cluster
FORCE = 10.0  # seconds that a host gets to kill its worker, before it is killed itself
CREATION = "error raised in its creation task"  # Ray's words
THREADS = 4  # of a host: one waits for news, one may be closing

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Place:
    """A slot, and the actor that is, or will be, its place in the cluster."""

    slot: Slot
    actor: Any
    news: Any  # the reference of what it tells next, or of its end
    calls: int = 0
    ready: bool = False
    leaving: bool = False
    idle: float = 0.0  # since when it has had no job
    job: TrialJob | None = None
    begin: float = 0.0
    killed: str = ""  # why we killed its job
    deadline: float = math.inf  # until when that must have happened
    uploads: tuple[tuple[int, int], ...] = ()  # trial and epoch of what it has still to store


class RayLauncher(Launcher):
    """Runs each trial in a worker process that a Ray actor hosts, one actor for each slot.

    All actors are asked for at the start, so Ray knows what is wanted, places them as nodes have room, and
    an autoscaler brings nodes for those that wait. A slot takes jobs once its actor is there. If the actor or
    its node is lost, its job has failed, and another actor is asked for. Actors that have no job for a minute
    give back what they hold, all but one; once that one gets a job, the others are asked for again.

    Args:
        workers: number of slots.
        address: of the cluster, see `Cluster`.
        gpus_per_trial: a share of one GPU, or a whole number of them.
        resources_per_trial: what one trial takes, in Ray's names: ``CPU`` (1 by default), ``GPU`` unless
            `gpus_per_trial` says it, ``memory`` in bytes, custom ones.
        runtime_env: Ray's description of what workers need, without ``env_vars``.
        env: names of further environment variables that workers get from this process.

    Raises:
        ConfigError: an argument is wrong, or Ray is not installed.
    """

    def __init__(
        self,
        workers: int,
        *,
        address: str | None = None,
        gpus_per_trial: float | None = None,
        resources_per_trial: Mapping[str, float] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        env: Sequence[str] = (),
    ) -> None:
        if workers < 1:
            raise ConfigError("workers", f"must be 1 or more, got {workers}")
        the_ray()
        if address is not None and (not isinstance(address, str) or not address):
            raise ConfigError(
                "address", f"must be auto, local, host:port or ray://host:port, got {shown(address)}"
            )
        self._resources = parse_resources(resources_per_trial)
        if gpus_per_trial is not None:
            if "GPU" in self._resources:
                raise ConfigError("resources_per_trial.GPU", "must be left out where gpus_per_trial is given")
            self._resources = parse_resources({**self._resources, "GPU": gpus_per_trial})
        self._environment = environment(_names(env))
        self._cluster = Cluster(address, _runtime_env(runtime_env))
        gpus = self._resources.get("GPU", 0.0)
        variables = on_cores(max(1, int(self._resources["CPU"])))
        self.slots = [
            Slot(number, "cuda:0" if gpus else "cpu", gpus, dict(variables)) for number in range(workers)
        ]
        self._places: dict[int, _Place] = {}  # slot number -> place
        self._released: list[Slot] = []  # slots without an actor
        self._unborn = 0  # actors in a row that were lost before they were ready
        self._hosts: dict[int, set[int]] = {}  # trial -> slots whose node may have copies of its checkpoints

    def start(self, trainable: Any, services: Services, folder: Path) -> None:
        """Ask for the actors; they come as the cluster has room for them."""
        payload = packed(trainable, services)
        self._cluster.connect()
        self._cluster.check(self._resources, len(self.slots))
        self._study = uuid.uuid4().hex[:12]
        self._payload = the_ray().put(payload)
        self._host_class = (
            the_ray()
            .remote(TrialHost)
            .options(**actor_options(self._resources), max_concurrency=THREADS, max_restarts=0)
        )
        for slot in self.slots:
            self._spawn(slot, checks=True)

    @property
    def free_slot(self) -> Slot | None:
        """The first slot whose actor is there and has no job."""
        return next((place.slot for place in self._idle()), None)

    def submit(self, slot: Slot, job: TrialJob) -> None:
        """Hand a job to the actor of `slot`."""
        place = self._places[slot.number]
        if place.job is not None or not place.ready:
            raise RuntimeError(f"slot {slot.number} is not free")
        place.job, place.begin = job, time.monotonic()
        self._hosts.setdefault(job.trial_id, set()).add(slot.number)
        self._call(place, "submit", slot, job)
        if self.free_slot is None:
            for released in self._released:
                self._spawn(released, checks=False)
            self._released.clear()

    def located(self, trial_id: int, location: str, run_id: str) -> None:
        """Tell the trial's host."""
        self._call(self._of(trial_id), "located", trial_id, location, run_id)

    def wait(self, timeout: float) -> list[Event]:
        """Return what the hosts told, and the end of those that are lost."""
        ray = the_ray()
        places = {place.news: place for place in self._places.values()}
        deadline = min(place.deadline for place in places.values())
        timeout = max(0.0, min(timeout, deadline - time.monotonic()))
        try:
            told, _ = ray.wait(list(places), num_returns=1, timeout=timeout)
            if told:  # then all that is there by now
                told, _ = ray.wait(list(places), num_returns=len(places), timeout=0)
        except ConnectionError as error:
            raise StudyError(f"launcher: the connection to Ray is lost: {error}") from error
        events: list[Event] = []
        for reference in told:
            events += self._hear(places[reference])
        for place in list(self._places.values()):
            if time.monotonic() > place.deadline:
                events += self._lost(place, "its Ray actor does not answer")
        self._release()
        return events

    def reply(self, trial_id: int, *, go_on: bool, best: bool) -> None:
        """Answer a report."""
        self._call(self._of(trial_id), "reply", trial_id, go_on=go_on, best=best)

    def interrupt(self, trial_id: int) -> None:
        """Raise `TrialStopped` inside the training."""
        self._call(self._of(trial_id), "interrupt", trial_id)

    def kill(self, trial_id: int, reason: str) -> None:
        """Have the trial's process killed by its host; a host that does not answer is killed itself."""
        if (place := self._of(trial_id)) is not None and not place.killed:
            place.killed, place.deadline = reason, time.monotonic() + FORCE
            self._call(place, "kill", trial_id, reason)

    @property
    def uploads(self) -> int:
        """How many checkpoints the hosts have still to store."""
        return sum(len(place.uploads) for place in self._places.values())

    def forget(self, trial_id: int) -> None:
        """Have the hosts let go of their copies of a trial that will not go on."""
        for number in self._hosts.pop(trial_id, ()):
            self._call(self._places.get(number), "forget", trial_id)

    def close(self) -> None:
        """Let the hosts store what is left, end them, and leave the cluster."""
        try:
            with contextlib.suppress(ConnectionError):  # then Ray ends them
                self._end_hosts()
        finally:
            self._places.clear()
            self._cluster.disconnect()

    def _end_hosts(self) -> None:
        if not self._places:
            return
        ray = the_ray()
        there = [place for place in self._places.values() if place.ready]
        closing = [place.actor.close.remote() for place in there]
        if closing:
            _, left = ray.wait(closing, num_returns=len(closing), timeout=LAST_UPLOADS)
            if left:
                logger.warning("%d of the Ray actors did not end by themselves", len(left))
        for place in self._places.values():
            _kill(place)

    def _spawn(self, slot: Slot, *, checks: bool) -> None:
        actor = self._host_class.remote()
        orders = Orders(
            *(self._study, slot, self.jobs_per_worker, checks, tuple(import_path()), os.getcwd()),
            environment=self._environment,
        )
        self._places[slot.number] = _Place(slot, actor, actor.begin.remote(orders, self._payload))

    def _call(self, place: _Place | None, method: str, *args: Any, **options: Any) -> None:
        """Call a method of a host's pool; that it, or Ray, is lost is found by `wait`."""
        if place is not None:
            with contextlib.suppress(ConnectionError):
                place.actor.call.remote(place.calls, method, *args, **options)
            place.calls += 1

    def _of(self, trial_id: int) -> _Place | None:
        places = self._places.values()
        return next((each for each in places if each.job is not None and each.job.trial_id == trial_id), None)

    def _idle(self) -> list[_Place]:
        places = self._places.values()
        return [each for each in places if each.ready and each.job is None and not each.leaving]

    def _release(self) -> None:
        """Let actors end that have been without a job for long; one stays, for the next job."""
        idle = sorted(self._idle(), key=lambda place: place.idle)
        for place in idle[:-1]:
            if not place.uploads and time.monotonic() - place.idle > IDLE:
                place.leaving = True
                place.news = place.actor.close.remote()

    def _hear(self, place: _Place) -> list[Event]:
        ray = the_ray()
        if place.leaving:
            _kill(place)
            del self._places[place.slot.number]
            self._released.append(place.slot)
            return []
        try:
            news: News = ray.get(place.news)
        except ray.exceptions.RayError as error:
            return self._lost(place, _said(error), hopeless=_is_ours(error))
        if news.problem:
            return self._lost(place, news.problem, hopeless=True)
        place.news = place.actor.news.remote()
        if news.ready and not place.ready:
            place.ready, place.idle = True, time.monotonic()
            self._unborn = 0
        place.uploads = news.uploads
        if any(isinstance(event, Ended) for event in news.events):
            place.job, place.killed, place.deadline = None, "", math.inf
            place.idle = time.monotonic()
        return list(news.events)

    def _lost(self, place: _Place, why: str, *, hopeless: bool = False) -> list[Event]:
        """Replace an actor that is lost, and tell the end of its job.

        Raises:
            StudyError: it could not start, and so did the others: `hopeless` says that it was no accident.
        """
        _kill(place)
        if not place.ready:
            self._unborn += 1
            alone = not any(other.ready for other in self._places.values())
            if self._unborn > BIRTHS or (hopeless and alone):
                raise StudyError(f"launcher: no worker can start on the Ray cluster: {why}")
        self._spawn(place.slot, checks=False)
        events: list[Event] = [
            Warned(
                trial_id,
                f"the checkpoint of epoch {epoch} may be lost: its Ray actor was, before it was stored",
            )
            for trial_id, epoch in place.uploads
        ]
        if place.job is not None:
            events.append(
                Ended(
                    place.job.trial_id,
                    Outcome.FAILED,
                    time.monotonic() - place.begin,
                    place.killed or f"the worker process died: {why}",
                    "",
                    Cause.TRAINING if place.killed else Cause.LOST,
                )
            )
        return events


def _kill(place: _Place) -> None:
    with contextlib.suppress(Exception):  # it is dead, or its node is
        the_ray().kill(place.actor)


def _is_ours(error: Exception) -> bool:
    """Whether something was raised in an actor, such as by an import; it is not just lost with its node."""
    errors = the_ray().exceptions
    return isinstance(error, errors.RayTaskError | errors.RuntimeEnvSetupError) or CREATION in str(error)


def _said(error: Exception) -> str:
    """Return what Ray tells of a lost actor, in one line."""
    text = str(error).strip()
    if _is_ours(error):
        return f"{text.splitlines()[-1]:.400}"
    if isinstance(error, the_ray().exceptions.ActorUnavailableError):
        return "its Ray node does not answer any more"
    if (told := re.search(r"actor (?:is dead|died) because (.+?)[.:\n]", text)) is not None:
        return f"its Ray actor is lost, as {told[1]:.200}"
    return f"its Ray actor is lost: {' '.join(text.split()):.300}"


def _names(env: Any) -> tuple[str, ...]:
    if (
        isinstance(env, str)
        or not isinstance(env, Sequence)
        or not all(isinstance(name, str) for name in env)
    ):
        raise ConfigError("env", f"must be a list of names of environment variables, got {shown(env)}")
    for name in env:
        if name not in os.environ:
            raise ConfigError("env", f"{name!r} is not set here")
    return tuple(env)


def _runtime_env(given: Any) -> Mapping[str, Any] | None:
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError("runtime_env", f"must be a mapping, as Ray has it, got {shown(given)}")
    if given is not None and "env_vars" in given:
        raise ConfigError(
            "runtime_env.env_vars",
            "is what Ray writes to its logs and we to MLflow: set the variables here and name them in env",
        )
    return given
