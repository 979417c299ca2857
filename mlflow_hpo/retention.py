"""Retention: which checkpoints of a study are kept."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mlflow_hpo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """What retention looks at of one trial.

    `paused` says that it may go on, now or when the study is resumed; `best` is its best feasible value, at
    epoch `best_epoch`, None if it has none; `epochs` are those of its stored checkpoints.
    """

    trial_id: int
    paused: bool
    best: float | None
    best_epoch: int
    epochs: Collection[int]


@dataclass(frozen=True, slots=True)
class Retention:
    """A policy: ``best``, ``best:3``, ``last`` or ``all``.

    - ``best``, ``best:k``: the best epoch's and the newest checkpoint of the best trial, or of the k best
      trials.
    - ``last``: the newest checkpoint of every trial, and the best epoch's of the best one.
    - ``all``: every checkpoint.

    A trial that may go on keeps its newest checkpoint under every policy, and the best trial its best
    epoch's: from the one the search goes on, from the other the model is made.
    """

    kind: str
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Retention:
        """Read the key ``keep_checkpoints``.

        Raises:
            ConfigError: it is none of the policies.

        >>> Retention.parse("best:3")
        Retention(kind='best', count=3)
        >>> Retention.parse("best:0")
        Traceback (most recent call last):
            ...
        mlflow_hpo.errors.ConfigError: keep_checkpoints: must be best, best:k (k of 1 or more), last or all, \
got 'best:0'
        """
        match = (
            re.fullmatch(r"(best)(?::([1-9][0-9]{0,8}))?|last|all", text) if isinstance(text, str) else None
        )
        if match is None:
            raise ConfigError(
                "keep_checkpoints", f"must be best, best:k (k of 1 or more), last or all, got {text!r:.80}"
            )
        return cls(match[1] or text, int(match[2] or 1))

    def __str__(self) -> str:
        return f"best:{self.count}" if self.count > 1 else self.kind

    def keep(self, trials: Iterable[StoredTrial], mode: str) -> dict[int, set[int]]:
        """Return which epochs' checkpoints to keep, by trial; a trial that keeps none is not in it.

        Args:
            trials: all trials of the study that have a checkpoint or a value.
            mode: "max" or "min": which way values are good. Among equals the lower trial id is better.
        """
        trials = list(trials)
        ranked = sorted(
            (trial for trial in trials if trial.best is not None and math.isfinite(trial.best)),
            key=lambda trial: (_cost(trial, mode), trial.trial_id),
        )
        best = {trial.trial_id for trial in ranked[: self.count if self.kind == "best" else 1]}
        kept = {trial.trial_id: self._of(trial, best=trial.trial_id in best) for trial in trials}
        return {trial_id: epochs for trial_id, epochs in kept.items() if epochs}

    def _of(self, trial: StoredTrial, *, best: bool) -> set[int]:
        if self.kind == "all":
            return set(trial.epochs)
        wanted = set()
        if best:
            wanted.add(trial.best_epoch)
        if trial.epochs and (best or trial.paused or self.kind == "last"):
            wanted.add(max(trial.epochs))
        return wanted & set(trial.epochs)


def _cost(trial: StoredTrial, mode: str) -> float:
    value = math.inf if trial.best is None else trial.best
    return -value if mode == "max" else value
