"""Grid search."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from mlflow_hpo.checks import did_you_mean, whole_number
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.searchers.base import Searcher
from mlflow_hpo.space import CategoricalParameter, Config, Parameter, SearchSpace

MAX_SIZE = 100_000
"""Configurations that a grid has at most; whoever wants more can't want all of them."""

_Axes = dict[str, Sequence[Any]]  # name -> values of the parameters that are active together


class GridSearcher(Searcher):
    """Proposes every configuration of a full factorial once, in an order shuffled by the seed.

    Whole numbers, choices and floats with a `step` take all their values; a continuous parameter takes as
    many as `points` says, both ends included and evenly spaced on its (log) scale. Parameters multiply only
    the configurations in which they are active. Configurations that came from elsewhere (the study's
    `points`) are not proposed again.

    The order is shuffled because a grid is often cut short (`trials`, a budget): every beginning of it is
    then a random sample of the grid without replacement, which covers all values of all parameters, while a
    sorted one would not get beyond the first value of the first parameter.

    Args:
        points: how many values a continuous parameter takes: a whole number for all of them, or
            name -> whole number. By name it may also thin out whole numbers and floats with a `step`.

    Source: the baseline of Bergstra and Bengio, Random Search for Hyper-Parameter Optimization, JMLR 13
    (2012).
    """

    def __init__(self, space: SearchSpace, seed: int, levels: Sequence[int], *, points: Any = None) -> None:
        self.space = space
        self._points = _read_points(space, points)
        self._branches = self._enumerate()
        self._ends = list(accumulate(math.prod(map(len, axes.values())) for axes in self._branches))
        self._order = np.random.default_rng(seed).permutation(self._ends[-1])
        self._next = 0  # place in the order
        self._adopted: set[tuple[tuple[str, Any], ...]] = set()

    @property
    def size(self) -> int:
        """How many configurations the grid has."""
        return self._ends[-1]

    @property
    def exhausted(self) -> bool:
        """Whether every configuration of the grid has been proposed."""
        while self._next < self.size and tuple(self._config(self._next).items()) in self._adopted:
            self._next += 1
        return self._next == self.size

    def suggest(self, trial_id: int) -> Config:
        """Propose the next configuration of the order."""
        if self.exhausted:
            raise ValueError("suggest: the grid is exhausted")
        config = self._config(self._next)
        self._next += 1
        return config

    def adopt(self, trial_id: int, config: Config) -> None:
        """Leave the configuration out of what is still to be proposed."""
        self._adopted.add(tuple(config.items()))

    def _config(self, place: int) -> Config:
        index = int(self._order[place])
        branch = bisect_right(self._ends, index)
        index -= self._ends[branch - 1] if branch else 0
        config: Config = {}
        for name, values in self._branches[branch].items():
            index, digit = divmod(index, len(values))
            config[name] = values[digit]
        return config

    def _enumerate(self) -> list[_Axes]:
        """Divide the grid into products: in each the same parameters are active whatever the values are."""
        names = self.space.names
        branches, size = [], 0
        growing: list[tuple[int, _Axes, Config]] = [(0, {}, {})]
        while growing:
            depth, axes, chosen = growing.pop()  # `chosen`: one value of each parameter among `axes`
            if depth == len(names):
                branches.append(axes)
                size += math.prod(map(len, axes.values()))
                if size > MAX_SIZE:
                    raise _too_large()
            elif self.space[names[depth]].is_active(chosen):
                name = names[depth]
                for alike in self._alike(name, self._values(name)):
                    growing.append((depth + 1, {**axes, name: alike}, {**chosen, name: alike[0]}))
            else:
                growing.append((depth + 1, axes, chosen))
        return branches

    def _alike(self, name: str, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Divide the values of a parameter by what they make active."""
        asked = [parameter.when[name] for parameter in self.space.values() if name in parameter.when]
        groups: dict[tuple[bool, ...], list[Any]] = {}
        for value in values if asked else ():
            groups.setdefault(tuple(value in when for when in asked), []).append(value)
        return list(groups.values()) or [values]

    def _values(self, name: str) -> Sequence[Any]:
        parameter = self.space[name]
        points = self._points.get(name)
        size = parameter.size
        if size is not None and (points is None or points >= size):
            if size > MAX_SIZE:
                raise _too_large()
            return [parameter.value(index) for index in range(size)]
        if points is None:
            raise ConfigError(
                "points",
                f"is missing; {name} is continuous and has no step: say how many values it takes",
            )
        return _spread(parameter, points)


def _spread(parameter: Parameter, points: int) -> list[Any]:
    if points > MAX_SIZE:
        raise _too_large()
    places = [0.5] if points == 1 else [index / (points - 1) for index in range(points)]
    return list(dict.fromkeys(map(parameter.from_unit, places)))  # whole numbers on a log scale coincide


def _read_points(space: SearchSpace, points: Any) -> dict[str, int]:
    if points is None:
        return {}
    if not isinstance(points, Mapping):
        number = whole_number("points", points, at_least=1)
        return {name: number for name, parameter in space.items() if parameter.size is None}
    numbers = [name for name, each in space.items() if not isinstance(each, CategoricalParameter)]
    read = {}
    for name, number in points.items():
        if name not in numbers:
            raise ConfigError(f"points.{name}", f"is no number of the space{did_you_mean(name, numbers)}")
        read[name] = whole_number(f"points.{name}", number, at_least=1)
    return read


def _too_large() -> ConfigError:
    return ConfigError(
        "points",
        f"the grid must have at most {MAX_SIZE} configurations: take fewer points, larger steps, or sobol",
    )
