"""What a searcher is: who proposes configurations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from mlflow_hpo.searchers.prior import Prior
from mlflow_hpo.space import Config, SearchSpace


class Searcher(ABC):
    """Proposes configurations and learns from what becomes of them.

    A searcher is a pure state machine owned by one `Optimizer`: no I/O, no clock, not thread-safe; the same
    seed and the same sequence of calls give the same proposals. Losses are minimised and may be ``+inf`` (NaN
    and infinities of the metric, which rank last). A searcher must survive any order of reports and ends, and
    any number of pending trials.

    Args of every constructor: `space`, `seed`, and `levels`: the resources (epochs) at which the scheduler
    compares trials, ascending, so that a multi-fidelity searcher knows which values are comparable; then the
    searcher's own options, keyword-only, for which it raises `ConfigError` with the option's bare name.
    """

    space: SearchSpace

    memoryless: bool = False
    """Whether `adopt` of what `suggest` would have returned leaves the searcher just as `suggest` does, so
    that a search that is gone through again need not pay for its proposals."""

    misled: bool = False
    """Whether the losses have contradicted what earlier tasks led to expect, so that it is forgotten."""

    @property
    def exhausted(self) -> bool:
        """Whether there is no configuration left to propose (only finite searchers ever say so)."""
        return False

    @property
    def size(self) -> int | None:
        """How many configurations there are to propose; None without a bound."""
        return None

    @abstractmethod
    def suggest(self, trial_id: int) -> Config:
        """Propose a configuration that `space` contains; the trial is pending until it completes or fails.

        Must not be called when `exhausted`.
        """

    def expect(self, prior: Prior) -> Sequence[Config]:
        """Take what earlier tasks lead to expect, once, before anything else.

        Returns:
            The configurations that should be tried first, the first one first.
        """
        return prior.configs

    def adopt(self, trial_id: int, config: Config) -> None:  # noqa: B027 - need not learn
        """Take note of a pending trial that somebody else proposed (`points`); `config` is valid.

        For a trial that `suggest` was just called for, it replaces the proposal.
        """

    def report(self, trial_id: int, resource: int, loss: float) -> None:  # noqa: B027 - need not learn
        """Take the loss of a running trial after `resource` epochs (strictly ascending for each trial)."""

    def complete(self, trial_id: int) -> None:  # noqa: B027 - need not learn
        """The trial's job ended well: paused at a rung, stopped early, or fully trained."""

    def fail(self, trial_id: int) -> None:  # noqa: B027 - need not learn
        """The trial failed: no value will come, which is worth learning too."""
