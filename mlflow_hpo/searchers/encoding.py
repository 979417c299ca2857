"""Points of the unit cube of a space as numbers that a model can take, many at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_hpo.space import CategoricalParameter, IntParameter, SearchSpace

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[Any]  # of single or of double precision
Mask = npt.NDArray[np.bool_]


class Encoding:
    """Turns points of the unit cube into features in [0, 1].

    A number is one feature, its place on the (log) scale; a categorical parameter is one for each choice, of
    which one is 1. Each distinct condition adds a feature that is 1 where it holds; a parameter that is not
    active stands at 1/2, a categorical one at 0 for all choices, so that configurations with the same active
    values have the same features.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._place = {name: index for index, name in enumerate(space.names)}
        kinds = [isinstance(parameter, CategoricalParameter) for parameter in space.values()]
        self.categorical: Mask = np.array(kinds)
        """Which coordinates are categorical."""
        widths = [
            (parameter.size if parameter.size > 1 else 0)
            if isinstance(parameter, CategoricalParameter)
            else 1
            for parameter in space.values()
        ]
        self.columns = (np.cumsum(widths) - 1)[~self.categorical]
        """The feature that is the place of each coordinate that is not categorical."""

    def point(self, places: Mapping[str, float]) -> Array:
        """Return the point (d) of a configuration, given as what `SearchSpace.to_unit` returns."""
        return np.array([places.get(name, 0.5) for name in self._space])

    def snap(self, points: Array) -> tuple[Array, Mask]:
        """Return `points` (n x d) moved amid their values' shares, and which parameters are active there."""
        snapped, active = np.empty_like(points), np.empty(points.shape, dtype=bool)
        for index, (_, parameter) in enumerate(self._space.items()):
            column, size = points[:, index], parameter.size
            if isinstance(parameter, IntParameter) and parameter.log:
                low, high = math.log(parameter.low - 0.5), math.log(parameter.high + 0.5)
                whole = np.rint(np.exp(low + column * (high - low)))
                column = (np.log(np.clip(whole, parameter.low, parameter.high)) - low) / (high - low)
            elif size is not None:
                column = (np.minimum(np.floor(column * size), size - 1) + 0.5) / size
            holds = np.ones(len(points), dtype=bool)
            for other, values in parameter.when.items():
                parent, at = self._space[other], self._place[other]
                allowed = [parent.to_unit(value) for value in values]
                holds &= active[:, at] & np.isclose(snapped[:, [at]], allowed, rtol=0, atol=1e-12).any(axis=1)
            snapped[:, index] = np.where(holds, column, 0.5)
            active[:, index] = holds
        return snapped, active

    def features(self, snapped: Array, active: Mask) -> Array:
        """Return the features (n x f) of what `snap` returned."""
        columns: list[Array] = []
        conditions: dict[tuple[tuple[str, tuple[object, ...]], ...], Array] = {}
        for index, parameter in enumerate(self._space.values()):
            column, holds = snapped[:, index], active[:, index]
            if isinstance(parameter, CategoricalParameter):
                choice = np.floor(column * parameter.size)
                columns += [
                    (holds & (choice == number)).astype(float)
                    for number in range(parameter.size if parameter.size > 1 else 0)
                ]
            else:
                columns.append(column)
            if parameter.when:
                conditions[tuple(parameter.when.items())] = holds.astype(float)
        return np.stack([*columns, *conditions.values()] or [np.zeros(len(snapped))], axis=1)
