"""What earlier tasks lead a searcher to expect of any configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mlflow_hpo.searchers.curve_model import matern, squared_distances
from mlflow_hpo.searchers.encoding import Array, Floats
from mlflow_hpo.space import Config, SearchSpace

_JITTER = 1e-4  # keeps nodes that lie close together apart


@dataclass(frozen=True)
class Prior:
    """The losses that each of `t` earlier tasks leads to expect, of any configuration after any epochs.

    They are known at `p` nodes and after `g` numbers of epochs, and interpolated between: by a Matérn kernel
    of the features, and linearly in the logarithm of the epochs.

    Attributes:
        configs: what was good on earlier tasks, to be tried first the first one first.
        weights: how much each task counts before anything is known of the new one, t, the sum being 1.
        nodes: the features (p x f) where the losses are known, divided by `scales` (f).
        epochs: after which they are known, g, ascending.
        offsets: the mean losses, g x t.
        coefficients: of the kernel, p x g x t.
    """

    configs: Sequence[Config]
    weights: Array
    nodes: Floats
    scales: Array
    epochs: Array
    offsets: Array
    coefficients: Floats

    @classmethod
    def interpolated(
        cls,
        losses: Array,
        *,
        features: Array,
        scales: Array,
        epochs: Array,
        weights: Array,
        configs: Sequence[Config],
    ) -> Prior:
        """Return the prior that has `losses` (p x g x t) at `features` (p x f) after some epochs (g)."""
        nodes = features / scales
        covariance = matern(squared_distances(nodes, nodes))
        covariance[np.diag_indices(len(nodes))] += _JITTER
        offsets = losses.mean(axis=0)
        coefficients = np.linalg.solve(covariance, (losses - offsets).reshape(len(nodes), -1))
        return cls(
            configs,
            weights,
            # single precision is exact enough and takes a quarter of the time, over and over in a search
            nodes=nodes.astype(np.float32),
            scales=scales,
            epochs=epochs,
            offsets=offsets,
            coefficients=coefficients.reshape(losses.shape).astype(np.float32),
        )

    def expected(self, features: Array, epochs: Array) -> Array:
        """Return the losses (n x t) at some features (n x f) after some epochs (n)."""
        places = (features / self.scales).astype(np.float32)
        kernel = matern(squared_distances(places, self.nodes))
        heights = np.interp(np.log(epochs), np.log(self.epochs), np.arange(len(self.epochs)))
        losses = np.zeros((len(features), len(self.weights)))
        for index, offset in enumerate(self.offsets):
            shares = np.maximum(1 - np.abs(heights - index), 0.0)
            (rows,) = np.nonzero(shares)
            if len(rows):
                losses[rows] += shares[rows, None] * (kernel[rows] @ self.coefficients[:, index] + offset)
        return losses


class Experience(Protocol):
    """What is known of earlier tasks."""

    def prior(
        self, space: SearchSpace, levels: Sequence[int], mode: str, task: Mapping[str, Any]
    ) -> Prior | None:
        """Return what to expect of a new task, None where nothing is known that bears on it.

        Args:
            space: what is searched.
            levels: the epochs at which trials are compared, ascending.
            mode: "max" or "min", the better side of the values.
            task: its ``name``, and its ``features``, numbers by name; both may be missing.

        Raises:
            ConfigError: `mode` or `task` is wrong; the field is the name of either.
        """
