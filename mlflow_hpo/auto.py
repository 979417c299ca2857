"""What the searcher and the scheduler `auto` stand for, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlflow_hpo.space import CategoricalParameter, SearchSpace

MOST_FEATURES = 40
"""A Gaussian process is trusted with so many features of a space; a choice is one for each of its values."""

MOST_WORKERS = 2000
"""So many workers don't wait for the model: a choice takes it some milliseconds."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Names of a searcher and a scheduler, and in a sentence why these.

    Attributes:
        searcher, scheduler: their names; of what was not left open, some name.
        reason: why these.
        left: which of the two was left open.
    """

    searcher: str
    scheduler: str
    reason: str
    left: tuple[str, ...] = ("searcher", "scheduler")

    @property
    def told(self) -> str:
        """What the user reads."""
        return f"{self._part}auto is {self._names}: {self.reason}"

    def __str__(self) -> str:
        return f"{self._part}{self._names}: {self.reason}"

    @property
    def _part(self) -> str:
        """Which of the two it is about; "" where it is about both."""
        return f"{self.left[0]} " if len(self.left) == 1 else ""

    @property
    def _names(self) -> str:
        return " + ".join(getattr(self, part) for part in self.left)


def is_auto(component: Any) -> bool:
    """Return whether a searcher or scheduler is left to this module."""
    return _name(component) == "auto"


def named(component: Any, name: str) -> Any:
    """Return the component as it is, or under `name`, with its options, if it is ``"auto"``.

    >>> named("auto", "asha"), named("full", "asha"), named({"name": "auto", "eta": 4}, "asha")
    ('asha', 'full', {'name': 'asha', 'eta': 4})
    """
    if not is_auto(component):
        return component
    return {**component, "name": name} if isinstance(component, Mapping) else name


def choose(
    space: SearchSpace,
    searcher: Any,
    scheduler: Any,
    *,
    min_resource: int,
    max_resource: int,
    workers: int = 1,
) -> Choice:
    """Return what ``"auto"`` stands for beside a given searcher or scheduler, or for both.

    Args:
        space: what is searched.
        searcher, scheduler: as `Optimizer` takes them.
        min_resource, max_resource: epochs of the first rung and of a full training.
        workers: how many jobs run at once.

    >>> space = SearchSpace({"x": {"type": "float", "low": 0, "high": 1}})
    >>> choice = choose(space, "auto", "auto", min_resource=1, max_resource=27, workers=4)
    >>> choice.searcher, choice.scheduler
    ('freeze_thaw', 'freeze_thaw')
    >>> choose(space, "auto", "full", min_resource=1, max_resource=27).searcher
    'tpe'
    """
    wanted, paced = _name(searcher), _name(scheduler)
    left = tuple(part for part, name in (("searcher", wanted), ("scheduler", paced)) if name == "auto")
    found = _chosen(space, wanted, paced, min_resource, max_resource, workers)
    return replace(found, left=left or found.left)


def _chosen(
    space: SearchSpace,
    wanted: str | None,
    paced: str | None,
    min_resource: int,
    max_resource: int,
    workers: int,
) -> Choice:
    """Return the choice for a searcher and a scheduler of these names."""
    if max_resource == min_resource and paced in ("auto", "full"):
        return Choice("tpe", "full", "each trial reports at one resource only, so none can stop early")
    if wanted not in ("auto", "freeze_thaw") or paced not in ("auto", "freeze_thaw"):
        other = "scheduler" if wanted == "auto" else "searcher"
        return Choice("tpe", "asha", f"it goes with any other {other}")
    if wanted == "freeze_thaw" or paced == "freeze_thaw":
        return Choice("freeze_thaw", "freeze_thaw", "the one needs the other")
    features = _features(space)
    if features > MOST_FEATURES:
        return Choice(
            "tpe", "asha", f"a space of {features} features is too wide for a model of the learning curves"
        )
    if workers > MOST_WORKERS:
        return Choice("sobol", "asha", f"{workers} workers would wait for a model of the learning curves")
    return Choice(
        "freeze_thaw",
        "freeze_thaw",
        f"{features} features and trials that may pause between {min_resource} and {max_resource} epochs: "
        "a model of the learning curves learns most from each epoch",
    )


def _name(component: Any) -> str | None:
    """Return the name that a searcher or scheduler is asked for by, None for an instance."""
    if isinstance(component, Mapping):
        component = component.get("name")
    return component if isinstance(component, str) else None


def _features(space: SearchSpace) -> int:
    """Return how many numbers tell a configuration."""
    return sum(
        parameter.size if isinstance(parameter, CategoricalParameter) else 1 for parameter in space.values()
    )
