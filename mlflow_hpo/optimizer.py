"""Optimizer: ask / report / complete / fail; joins one searcher and one scheduler."""

from __future__ import annotations

import enum
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType
from typing import Any

from mlflow_hpo.auto import choose, named
from mlflow_hpo.checks import finite_number, one_of, shown, whole_number
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.first_trials import FirstTrials
from mlflow_hpo.registry import check_options
from mlflow_hpo.schedulers import SCHEDULERS, Decision, Scheduler
from mlflow_hpo.schedulers.base import Assignment
from mlflow_hpo.schedulers.early_stopping import EarlyStopping
from mlflow_hpo.searchers import SEARCHERS, Searcher
from mlflow_hpo.searchers.prior import Experience
from mlflow_hpo.space import Config, SearchSpace

MOST_TAUGHT = 10
"""A searcher without a model of the losses begins with so many configurations of earlier tasks, ..."""
SHARE_TAUGHT = 4
"""... but at most with one in so many trials."""


class TrialState(enum.Enum):
    """What has become of a trial.

    A trial is RUNNING while one of its jobs is handed out and PAUSED between them. It ends FINISHED (fully
    trained), STOPPED (unpromising) or FAILED.
    """

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of training to do: epochs ``start + 1 .. stop`` of one trial.

    `start` > 0 means: go on from the checkpoint of epoch `start`. `bracket` and `rung` count from 0.
    """

    trial_id: int
    config: Config
    start: int
    stop: int
    bracket: int
    rung: int


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """What is known of one trial.

    Attributes:
        resource: epochs reported so far.
        value: the last value as it was reported, NaN and infinities included; None before the first.
        feasible: whether the last report kept all constraints.
        best_value, best_resource: the best finite feasible value and the epoch it was reported at.
        reason: why the trial failed.
    """

    trial_id: int
    config: Config
    state: TrialState = TrialState.RUNNING
    resource: int = 0
    value: float | None = None
    feasible: bool = True
    best_value: float | None = None
    best_resource: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class BestTrial:
    """The best finite feasible value that any trial reported, and the epoch (`resource`) at which it did."""

    trial_id: int
    config: Config
    resource: int
    value: float


class Optimizer:
    """Decides which configuration is trained next and for how long.

    A pure state machine: no I/O, no clock, no threads; the same arguments and the same calls give the same
    answers. Not thread-safe. Trials are counted from 0.

    Args:
        space: what to search.
        mode: "max" or "min", the better side of the reported values.
        searcher: who proposes: a name, ``{"name": ..., **options}`` or an instance; for "auto" see `choose`.
        scheduler: who gets how much: likewise.
        min_resource, max_resource: epochs of the first rung and of a full training.
        trials: at most that many configurations; None for no bound.
        workers: how many jobs will run at once; nothing but "auto" depends on it.
        seed: 0 or more.
        points: configurations to try first.
        early_stopping: the options of `EarlyStopping`: trials stop by their own curves, too.
        history: what is known of earlier tasks, such as a `History`. The searcher `freeze_thaw` begins with
            what it leads to expect; others with at most 10 configurations, and at most one in four of the
            `trials`, that were good there, see `FirstTrials`. `points` come first.
        task: what is known of the new task: its ``name``, and its ``features``, numbers by name.
        goal: the search is over once a finite feasible value is at least as good: nothing more is handed out,
            every report of a running trial is answered by `Decision.STOP`, and paused trials are eliminated.

    Raises:
        ConfigError: an argument is wrong.

    >>> space = SearchSpace({"x": {"type": "float", "low": -1, "high": 1}})
    >>> optimizer = Optimizer(space, mode="min", searcher="random", max_resource=9, trials=9)
    >>> while (job := optimizer.ask()) is not None:
    ...     for epoch in range(job.start + 1, job.stop + 1):
    ...         if optimizer.report(job.trial_id, epoch, job.config["x"] ** 2 + 1 / epoch) is Decision.STOP:
    ...             break
    ...     optimizer.complete(job.trial_id)
    >>> optimizer.finished, optimizer.best.resource
    (True, 9)
    >>> [trial.state.name for trial in optimizer.trials.values()].count("FINISHED")
    1
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        mode: str = "max",
        searcher: str | Mapping[str, Any] | Searcher = "auto",
        scheduler: str | Mapping[str, Any] | Scheduler = "auto",
        min_resource: int = 1,
        max_resource: int = 1,
        trials: int | None = None,
        workers: int = 1,
        seed: int = 0,
        points: Sequence[Mapping[str, Any]] | None = None,
        early_stopping: Mapping[str, Any] | None = None,
        goal: float | None = None,
        history: Experience | None = None,
        task: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(space, SearchSpace):
            raise ConfigError("space", f"must be a SearchSpace, got {shown(space)}")
        self.space = space
        self.mode = one_of("mode", mode, ("max", "min"))
        self.min_resource = whole_number("min_resource", min_resource, at_least=1)
        self.max_resource = whole_number("max_resource", max_resource, at_least=1)
        if self.max_resource < self.min_resource:
            raise ConfigError(
                "max_resource", f"must be min_resource ({self.min_resource}) or more, got {self.max_resource}"
            )
        self._bound = None if trials is None else whole_number("trials", trials, at_least=1)
        seed = whole_number("seed", seed, at_least=0)
        choice = choose(
            space,
            searcher,
            scheduler,
            min_resource=self.min_resource,
            max_resource=self.max_resource,
            workers=whole_number("workers", workers, at_least=1),
        )
        self._scheduler = SCHEDULERS.create(
            named(scheduler, choice.scheduler),
            self.min_resource,
            self.max_resource,
        )
        made_for = (self._scheduler.min_resource, self._scheduler.max_resource)
        if made_for != (self.min_resource, self.max_resource):
            raise ConfigError(
                "scheduler",
                f"must be made for resources {self.min_resource} .. {self.max_resource}, "
                f"got one for {made_for[0]} .. {made_for[1]}",
            )
        if early_stopping is not None:
            self._scheduler = _with_early_stopping(self._scheduler, early_stopping)
        self._searcher = SEARCHERS.create(
            named(searcher, choice.searcher), space, seed, self._scheduler.levels
        )
        if self._searcher.space != space:
            raise ConfigError("searcher", "must be made for the same space")
        self._scheduler.consult(self._searcher)
        given = _valid_points(space, points)
        taught = [] if history is None else self._taught(history, task or {}, given)
        self._first = FirstTrials(given, taught, self._scheduler.levels[0])
        self._given = len(self._first)
        self._sign = -1.0 if self.mode == "max" else 1.0
        self._goal_loss = -math.inf if goal is None else self._sign * finite_number("goal", goal)
        self._jobs: dict[int, Job] = {}  # of the running trials
        self._told_to_stop: set[int] = set()
        self._records: dict[int, TrialRecord] = {}
        self._next_id = 0  # no lower id is free
        self._best: BestTrial | None = None
        self._eliminated: list[int] = []
        self._seen = 0  # how many of the scheduler's eliminations are among them
        self._known: dict[int, Config] = {}  # configurations that trials are known to have
        self._reached: dict[int, int] = {}  # how far trials are known to have come that are not there yet
        self._stopped: set[int] = set()  # trials that are known to have been stopped there
        self._closed = False

    def recall(
        self,
        configs: Mapping[int, Mapping[str, Any]],
        reached: Mapping[int, int] | None = None,
        stopped: Iterable[int] = (),
    ) -> None:
        """Let trials that will be asked for be what they are known to have been.

        So a search is gone through again: with the same calls in the same order everything is decided as it
        was; where the order is not known exactly, what was done is what counts.

        Args:
            configs: the configurations by trial id.
            reached: the epochs that trials are known to have been trained. None is stopped before, and
                `catch_up` hands out those that are paused before.
            stopped: trials that the scheduler is known to have stopped there.

        Raises:
            ConfigError: a configuration is not of the space.
        """
        self._known |= {trial_id: self.space.validate(config) for trial_id, config in configs.items()}
        self._reached |= reached or {}
        self._stopped |= set(stopped)

    def catch_up(self) -> Job | None:
        """Return a job of a trial that is known to have gone on, but was not asked for; None if all were."""
        for trial_id, reached in self._reached.items():
            record = self._records.get(trial_id)
            if (
                record is not None
                and record.state in (TrialState.PAUSED, TrialState.STOPPED)
                and record.resource < reached
                and (assignment := self._scheduler.promote(trial_id)) is not None
            ):
                return self._go_on(assignment)
        return None

    def remember(
        self,
        trial_id: int,
        config: Mapping[str, Any],
        curve: Sequence[tuple[int, float]],
        reason: str | None = None,
    ) -> None:
        """Take a trial that is over, of a search with another searcher, scheduler or resources.

        The searcher learns from it, and it counts among the trials; the scheduler does not hear of it.

        Args:
            trial_id: its id; ids that are left out are those of the next new trials.
            config: its configuration.
            curve: its values by ascending resource; NaN for one that broke a constraint.
            reason: why it failed; None if it did not.

        Raises:
            ConfigError: the configuration is not of the space.
            ValueError: there is such a trial already.
        """
        if trial_id in self._records:
            raise ValueError(f"remember: there is a trial {trial_id} already")
        config = self.space.validate(config)
        self._records[trial_id] = TrialRecord(trial_id, config)
        self._searcher.adopt(trial_id, dict(config))
        for resource, value in curve:
            loss = self._take(trial_id, resource, value, feasible=not math.isnan(value))
            self._searcher.report(trial_id, resource, loss)
        if reason is not None:
            self._searcher.fail(trial_id)
            self._update(trial_id, state=TrialState.FAILED, reason=reason)
        else:
            self._searcher.complete(trial_id)
            whole = self._records[trial_id].resource >= self.max_resource
            self._update(trial_id, state=TrialState.FINISHED if whole else TrialState.STOPPED)

    def ask(self) -> Job | None:
        """Return the next job, or None: nothing to hand out until a running job ends, or `finished`."""
        if self.goal_reached:
            return None
        new_trial_id = self._free_id() if self._may_start() else None
        assignment = self._scheduler.next(new_trial_id)
        if assignment is None:
            return None
        trial_id = assignment.trial_id
        if trial_id == new_trial_id:
            self._records[trial_id] = TrialRecord(trial_id, self._new_config(trial_id))
            self._may_start()  # closes the scheduler right after the last trial
        return self._go_on(assignment)

    def _free_id(self) -> int:
        """Return the lowest id that no trial has."""
        while self._next_id in self._records:
            self._next_id += 1
        return self._next_id

    def _go_on(self, assignment: Assignment) -> Job:
        """Make a job of what the scheduler hands out."""
        trial_id = assignment.trial_id
        self._update(trial_id, state=TrialState.RUNNING)
        job = Job(
            trial_id,
            dict(self._records[trial_id].config),
            assignment.start,
            assignment.stop,
            assignment.bracket,
            assignment.rung,
        )
        self._jobs[trial_id] = job
        return job

    def report(self, trial_id: int, resource: int, value: float, *, feasible: bool = True) -> Decision:
        """Take the value of a running trial after `resource` epochs; NaN and infinities rank last.

        Args:
            trial_id, resource, value: whose value it is, after how many epochs, and the value itself.
            feasible: whether the trial keeps its constraints at this epoch. If not, its value ranks last, as
                an infinite one does, and `best` and `goal` pass over it. It may be feasible at a later epoch.

        Returns:
            Whether the trial goes on. After `Decision.STOP` call `complete`.

        Raises:
            ValueError: the trial is not running or was told to stop; `resource` does not ascend within the
                job's ``start + 1 .. stop``; or `value` is not a number.
        """
        job = self._job(trial_id)
        if trial_id in self._told_to_stop:
            raise ValueError(f"report: trial {trial_id} was told to stop; call complete({trial_id})")
        record = self._records[trial_id]
        least = max(job.start, record.resource) + 1
        if not isinstance(resource, numbers.Integral) or not least <= resource <= job.stop:
            raise ValueError(
                f"report: resource of trial {trial_id} must be a whole number from {least} to {job.stop}, "
                f"got {resource!r}"
            )
        if not isinstance(value, numbers.Real):
            raise ValueError(f"report: value of trial {trial_id} must be a number, got {shown(value)}")
        resource, value, feasible = int(resource), float(value), bool(feasible)
        loss = self._take(trial_id, resource, value, feasible=feasible)
        seen = loss if feasible else math.inf
        self._first.report(trial_id, resource, seen)
        self._searcher.report(trial_id, resource, seen)
        tell = self._scheduler.report if feasible else self._scheduler.report_infeasible
        decision = tell(trial_id, resource, loss)
        if self.goal_reached:
            self._give_up_paused_trials()
            if resource < self.max_resource:
                decision = Decision.STOP
        decision = self._as_known(trial_id, resource, decision)
        if decision is Decision.STOP:
            self._told_to_stop.add(trial_id)
        return decision

    def _as_known(self, trial_id: int, resource: int, decision: Decision) -> Decision:
        """Return what was decided once, where that is known."""
        reached = self._reached.get(trial_id, 0)
        if resource < reached:
            return Decision.CONTINUE
        if resource == reached:
            del self._reached[trial_id]
            if trial_id in self._stopped:
                return Decision.STOP
        return decision

    def complete(self, trial_id: int) -> None:
        """End the running job of a trial: it reached `Job.stop`, or obeyed `Decision.STOP`.

        Raises:
            ValueError: the trial is not running.
        """
        job = self._job(trial_id)
        if trial_id in self._told_to_stop:
            self._told_to_stop.remove(trial_id)
            state = TrialState.STOPPED
        else:
            state = TrialState.PAUSED if job.stop < self.max_resource else TrialState.FINISHED
        del self._jobs[trial_id]
        self._update(trial_id, state=state)
        self._first.end(trial_id)
        self._searcher.complete(trial_id)
        if self.goal_reached:
            self._give_up_paused_trials()
            return
        self._scheduler.complete(trial_id)
        self._show_eliminations()

    def fail(self, trial_id: int, reason: str) -> None:
        """End a running trial without a value: it crashed, diverged, ran out of memory or time.

        Raises:
            ValueError: the trial is not running.
        """
        del self._jobs[self._job(trial_id).trial_id]
        self._told_to_stop.discard(trial_id)
        self._update(trial_id, state=TrialState.FAILED, reason=reason)
        self._first.end(trial_id)
        self._searcher.fail(trial_id)
        if not self.goal_reached:
            self._scheduler.fail(trial_id)
            self._show_eliminations()

    def _take(self, trial_id: int, resource: int, value: float, *, feasible: bool) -> float:
        """Put a value down; return the loss that it means."""
        record = self._records[trial_id]
        finite = math.isfinite(value)
        loss = self._sign * value if finite else math.inf
        counts = finite and feasible
        best = record.best_value, record.best_resource
        if counts and (record.best_value is None or loss < self._sign * record.best_value):
            best = value, resource
        self._records[trial_id] = (
            TrialRecord(  # for each of millions of reports: `replace` takes twice as long
                *(trial_id, record.config, record.state, resource, value, feasible, *best, record.reason)
            )
        )
        if counts and (self._best is None or loss < self._sign * self._best.value):
            self._best = BestTrial(trial_id, dict(record.config), resource, value)
        return loss

    def _taught(self, history: Experience, task: Mapping[str, Any], given: Sequence[Config]) -> list[Config]:
        """Let the searcher learn from earlier tasks, and return what is to be tried after what is given."""
        prior = history.prior(self.space, self._scheduler.levels, self.mode, task)
        if prior is None:
            return []
        size = MOST_TAUGHT if self._bound is None else min(MOST_TAUGHT, max(1, self._bound // SHARE_TAUGHT))
        wanted = (config for config in self._searcher.expect(prior) if config not in given)
        return list(islice(wanted, size))

    @property
    def finished(self) -> bool:
        """Whether no job runs and none will ever be handed out again."""
        over = self.goal_reached or (self._closed and not self._scheduler.has_work)
        return over and not self._jobs

    @property
    def misled(self) -> bool:
        """Whether the losses have contradicted what the history led to expect, so that it is forgotten."""
        return self._searcher.misled or self._first.misled

    @property
    def goal_reached(self) -> bool:
        """Whether any trial reported a finite feasible value that is at least as good as `goal`."""
        return self._best is not None and self._sign * self._best.value <= self._goal_loss

    @property
    def searcher(self) -> Searcher:
        """Who proposes; to be looked at only."""
        return self._searcher

    @property
    def expected_resource(self) -> float | None:
        """About how many epochs the whole search takes; None where nothing bounds the number of trials."""
        size = self._searcher.size
        bounds = [self._bound] if self._bound is not None else []
        bounds += [self._given + size] if size is not None else []
        return self._scheduler.expected_resource(min(bounds)) if bounds else None

    @property
    def best(self) -> BestTrial | None:
        """The best finite feasible value of any trial, the earlier one where they tie; None without any."""
        return self._best

    @property
    def trials(self) -> Mapping[int, TrialRecord]:
        """All trials by id, a read-only view that stays up to date."""
        return MappingProxyType(self._records)

    def state(self, trial_id: int) -> TrialState:
        """Return what has become of a trial; raises `ValueError` for one that never started."""
        if trial_id not in self._records:
            raise ValueError(
                f"there is no trial {trial_id!r}; there are {len(self._records)}, counted from 0"
            )
        return self._records[trial_id].state

    @property
    def eliminated(self) -> Sequence[int]:
        """Ids of the paused trials that will never go on, in the order of decision; only ever grows."""
        return self._eliminated

    def _may_start(self) -> bool:
        """Whether a new trial may start; tells the scheduler once none ever will."""
        if self._closed:
            return False
        used_up = self._bound is not None and len(self._records) >= self._bound
        if used_up or (not self._first and self._searcher.exhausted):
            self._closed = True
            self._scheduler.close()
            self._show_eliminations()
        return not self._closed

    def _new_config(self, trial_id: int) -> Config:
        known = self._known.pop(trial_id, None)
        point = self._first.take(trial_id, must=self._searcher.exhausted)
        if point is not None:
            config = known or point
            self._searcher.adopt(trial_id, dict(config))
        elif known is not None and self._searcher.memoryless:
            config = known
            self._searcher.adopt(trial_id, dict(config))
        else:
            config = self._searcher.suggest(trial_id)
            if known is not None and known != config:
                config = known
                self._searcher.adopt(trial_id, dict(config))
        return config

    def _job(self, trial_id: int) -> Job:
        if trial_id not in self._jobs:
            raise ValueError(f"trial {trial_id!r} is not running, it is {self.state(trial_id).value}")
        return self._jobs[trial_id]

    def _update(self, trial_id: int, **changes: Any) -> None:
        self._records[trial_id] = replace(self._records[trial_id], **changes)

    def _show_eliminations(self) -> None:
        for trial_id in self._scheduler.eliminated[self._seen :]:
            self._eliminate(trial_id)
            self._seen += 1

    def _give_up_paused_trials(self) -> None:
        for trial_id, record in self._records.items():
            if record.state is TrialState.PAUSED:
                self._eliminate(trial_id)

    def _eliminate(self, trial_id: int) -> None:
        self._update(trial_id, state=TrialState.STOPPED)
        self._eliminated.append(trial_id)


def _with_early_stopping(scheduler: Scheduler, options: Any) -> Scheduler:
    if not isinstance(options, Mapping):
        raise ConfigError("early_stopping", f"must be a mapping of options, got {shown(options)}")
    try:
        check_options("early_stopping", EarlyStopping, options)
        return EarlyStopping(scheduler, **options)
    except ConfigError as error:
        raise error.under("early_stopping") from None


def _valid_points(space: SearchSpace, points: Any) -> list[Config]:
    if points is None:
        return []
    if not isinstance(points, Sequence) or isinstance(points, str):
        raise ConfigError("points", f"must be a list of configurations, got {shown(points)}")
    valid: list[Config] = []
    for index, point in enumerate(points):
        try:
            valid.append(space.validate(point))
        except ConfigError as error:
            raise error.under(f"points[{index}]") from None
    return valid
