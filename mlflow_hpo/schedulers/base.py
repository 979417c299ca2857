"""What a scheduler is: who gets how much resource, stop or go on."""

from __future__ import annotations

import enum
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


class Decision(enum.Enum):
    """What a running trial does after a report."""

    CONTINUE = "continue"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One piece of training that a scheduler hands out: epochs ``start + 1 .. stop`` of one trial.

    `start` > 0 means: go on from the checkpoint of epoch `start`. `bracket` and `rung` count from 0.
    """

    trial_id: int
    start: int
    stop: int
    bracket: int = 0
    rung: int = 0


@runtime_checkable
class Adviser(Protocol):
    """A searcher that models learning curves, and so knows more of the paused trials than their losses.

    Attributes:
        given_up: trials that are not to go on, and count as if they had never been. The set only ever grows.
    """

    given_up: Set[int]

    def advise(self, paused: Mapping[int, Sequence[tuple[float, int]]], *, may_start: bool) -> int | None:
        """Return which of the paused trials should go on now, None if a new trial promises more.

        Args:
            paused: the trials to choose from, at least one, by the epochs that they were trained: (loss, id),
                ascending. To be looked at only.
            may_start: whether a new trial may start; if not, one of those paused is returned.
        """


class Scheduler(ABC):
    """Decides how much resource each trial gets.

    A *pausing* scheduler ends a job at a rung (`Assignment.stop`) and promotes the trial later with a new
    assignment that goes on from that checkpoint. A *stopping* scheduler hands out the whole way to
    `max_resource` and answers `Decision.STOP` to a report. Both fit this one contract.

    A scheduler is a pure state machine owned by one `Optimizer`: no I/O, no clock, no randomness of its own,
    not thread-safe. Losses are minimised; the optimizer has already turned the metric round and mapped NaN
    and infinities to ``+inf``, which ranks last. Ties are broken by the lower trial id.

    Args of every constructor: `min_resource` and `max_resource`, then the scheduler's own options,
    keyword-only, for which it raises `ConfigError` with the option's bare name.

    Attributes:
        min_resource, max_resource: epochs of the first rung and of a full training.
        levels: the epochs at which this scheduler compares trials, ascending; the last is `max_resource`.
        eliminated: ids of paused trials that this scheduler will never promote, in the order of the
            decisions. The list only ever grows.
    """

    min_resource: int
    max_resource: int
    levels: tuple[int, ...]
    eliminated: list[int]

    def consult(self, adviser: object) -> None:  # noqa: B027 - most decide by the losses alone
        """Take the searcher beside this scheduler, once, before anything else.

        Raises:
            ConfigError: this scheduler needs an `Adviser` and the searcher is none.
        """

    @abstractmethod
    def next(self, new_trial_id: int | None) -> Assignment | None:
        """Hand out the next assignment, or None if there is nothing to do until a running trial ends.

        Args:
            new_trial_id: the id that a new trial would get; None when no new trial may be started now.
        """

    @abstractmethod
    def report(self, trial_id: int, resource: int, loss: float) -> Decision:
        """Take the loss of a running trial at `resource` epochs (strictly ascending for each trial).

        Epochs may be left out. At `max_resource` the answer is CONTINUE: the trial is trained in full, and
        nothing is left to be stopped.
        """

    def report_infeasible(self, trial_id: int, resource: int, loss: float) -> Decision:
        """Take a report that breaks a constraint: it ranks last, whatever its loss, as an infinite one does.

        Only one that looks at a trial's own curve, such as `EarlyStopping`, has a use for `loss`.
        """
        return self.report(trial_id, resource, math.inf)

    @abstractmethod
    def complete(self, trial_id: int) -> None:
        """The trial's assignment ended: it reached `stop`, or obeyed `Decision.STOP`."""

    def promote(self, trial_id: int) -> Assignment | None:
        """Let a paused or eliminated trial go on out of its turn: it is known that it once did.

        Returns None where this cannot be, as with all schedulers that do not say otherwise.
        """
        return None

    def retire(self, trial_id: int) -> None:
        """The running trial was stopped for good by somebody else, such as `EarlyStopping`.

        It ends its assignment early and never goes on. A scheduler that compares trials counts it with its
        last loss at the rung it was on its way to, where it may keep worse trials from being promoted;
        one that does not say otherwise counts it as failed.
        """
        self.fail(trial_id)

    @abstractmethod
    def fail(self, trial_id: int) -> None:
        """The trial failed and will never come back; it counts as the worst of its rung."""

    @abstractmethod
    def close(self) -> None:
        """No new trial will ever be started: do not wait for one. May be called more than once."""

    @property
    @abstractmethod
    def has_work(self) -> bool:
        """Whether `next(None)` would hand out an assignment now."""

    def expected_resource(self, trials: int) -> float:
        """Return about how many epochs `trials` trials take in all, for estimates of the time to go."""
        return float(trials * self.max_resource)
