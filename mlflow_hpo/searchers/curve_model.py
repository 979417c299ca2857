"""A Gaussian process of learning curves: the loss of any configuration after any number of epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from mlflow_hpo.searchers.encoding import Array

_ITERATIONS = 30  # of one fit at most
_JITTER = 1e-6  # keeps nearly singular matrices solvable
_WIDTH = 4.0  # hyperparameters stay that many standard deviations of their prior around its mean

# mean and standard deviation of the normal priors of the hyperparameters' logarithms
_FEATURE_SCALE = (0.0, 1.0)
_HEIGHT_SCALE = (math.log(0.7), 0.7)
_VARIANCES = (  # of the parts of the kernel, in the order of the class docstring
    (math.log(0.5), 1.0),
    (math.log(0.5), 1.0),
    (math.log(0.3), 1.0),
    (math.log(0.02), 1.0),
)
_NOISE = (math.log(1e-3), 1.0)


@dataclass(frozen=True)
class Points:
    """Places on learning curves.

    Attributes:
        features: of the configurations, n x f, in [0, 1].
        heights: how far along the curve, n; 0 is the first level and 1 a full training.
        curves: which curve each place is on, n numbers; two places with the same number are on the same one.
    """

    features: Array
    heights: Array
    curves: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.heights)

    def __add__(self, other: Points) -> Points:
        return Points(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.heights, other.heights]),
            np.concatenate([self.curves, other.curves]),
        )


class CurveModel:
    """A Gaussian process over configurations and epochs, for losses with mean 0 and standard deviation 1.

    With Matérn kernels ``kx`` of the features, one length scale for each, and ``kt`` of the heights, the
    covariance of the losses at two places is the sum of four parts, each with a variance of its own:

    - ``kx``: what a configuration is worth, at any height;
    - ``kx * kt``: how its curve departs from that;
    - ``kt``: the curve that all configurations have in common;
    - ``kt`` for places on the same curve: what the configuration does not explain, such as the seed.

    The hyperparameters maximise the marginal likelihood times log-normal priors.

    Source: Swersky et al., Freeze-Thaw Bayesian Optimization, 2014, for the idea; Rasmussen and Williams,
    Gaussian Processes for Machine Learning, 2006, sections 2.2, 4.2 and 5.4 for the formulas.

    >>> model = CurveModel(features=1)
    >>> seen = Points(np.array([[0.2], [0.2], [0.8]]), np.array([0.0, 1.0, 0.0]), np.array([0, 0, 1]))
    >>> model.condition(seen, np.array([0.0, -1.0, 1.2]))
    >>> mean, deviation = model.predict(Points(np.array([[0.8]]), np.array([1.0]), np.array([1])))
    >>> bool(-1.0 < mean[0] < 1.2)
    True
    """

    def __init__(self, features: int) -> None:
        priors = np.array([*[_FEATURE_SCALE] * features, _HEIGHT_SCALE, *_VARIANCES, _NOISE])
        self._prior_mean, self._prior_deviation = priors.T
        self._theta = self._prior_mean  # the logarithms of the hyperparameters, in the order of the priors
        self._features = features

    def fit(self, points: Points, losses: Array) -> None:
        """Adapt the hyperparameters to the losses (n) at `points`, starting at those of the last fit."""
        width = _WIDTH * self._prior_deviation
        found = minimize(
            self._objective,
            self._theta,
            args=(points, losses, list(self._squares(points))),
            jac=True,
            method="L-BFGS-B",
            bounds=np.column_stack([self._prior_mean - width, self._prior_mean + width]),
            options={"maxiter": _ITERATIONS},
        )
        self._theta = found.x

    def condition(self, points: Points, losses: Array) -> None:
        """Learn the losses (n) at `points`, and forget all others."""
        covariance = self._covariance(points, points)
        diagonal = np.diag_indices(len(points))
        jitter = _JITTER
        while True:
            covariance[diagonal] += jitter + math.exp(self._theta[-1])
            try:
                self._factor = cholesky(covariance, lower=True, check_finite=False)
                break
            except LinAlgError:
                jitter *= 10
        self._points = points
        self._weights = cho_solve((self._factor, True), losses, check_finite=False)

    def predict(self, points: Points) -> tuple[Array, Array]:
        """Return the mean (n) and standard deviation (n) of the losses at `points`, noise left out."""
        cross = self._covariance(points, self._points)
        explained = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = np.exp(self._theta[-5:-1]).sum() - np.square(explained).sum(axis=0)
        return cross @ self._weights, np.sqrt(np.maximum(variance, 1e-10))

    def _covariance(self, a: Points, b: Points) -> Array:
        scales = np.exp(-self._theta[: self._features])
        at_configuration = _matern(_distances(a.features * scales, b.features * scales))
        at_height = self._height_kernel(a.heights, b.heights)
        value, departure, common, own = np.exp(self._theta[-5:-1])
        same = np.equal.outer(a.curves, b.curves)
        covariance: Array = at_configuration * (value + departure * at_height)
        covariance += at_height * (common + own * same)
        return covariance

    def _height_kernel(self, a: Array, b: Array) -> Array:
        """Return ``kt`` (n x m); worked out for distinct heights only, of which there are few."""
        rows, row = np.unique(a, return_inverse=True)
        columns, column = np.unique(b, return_inverse=True)
        squares = np.square(np.subtract.outer(rows, columns))
        kernel: Array = _matern(squares * math.exp(-2 * self._theta[self._features]))[:, column][row]
        return kernel

    def _squares(self, points: Points) -> Iterator[Array]:
        """Yield the squared differences (n x n) in each feature, then those of the heights."""
        for column in (*points.features.T, points.heights):
            yield np.square(np.subtract.outer(column, column))

    def _objective(
        self, theta: Array, points: Points, losses: Array, squares: list[Array]
    ) -> tuple[float, Array]:
        """Return the negative logarithm of likelihood times prior, up to a constant, and its gradient."""
        inverse = np.exp(-2 * theta[: self._features + 1])
        scaled = sum((s * i for s, i in zip(squares[:-1], inverse, strict=False)), np.zeros_like(squares[-1]))
        kx, slope_x = _matern(scaled), _matern_slope(scaled)
        height = squares[-1] * inverse[-1]
        kt, slope_t = _matern(height), _matern_slope(height)
        value, departure, common, own = np.exp(theta[-5:-1])
        same = np.equal.outer(points.curves, points.curves)
        parts = [value * kx, departure * kx * kt, common * kt, own * kt * same]
        noise = math.exp(theta[-1])
        covariance = parts[0] + parts[1] + parts[2] + parts[3]
        covariance[np.diag_indices(len(losses))] += noise + _JITTER
        try:
            factor = cholesky(covariance, lower=True, check_finite=False)
        except LinAlgError:
            return 1e10, np.zeros_like(theta)
        weights = cho_solve((factor, True), losses, check_finite=False)
        # d(-log likelihood) / d(theta) is half the sum over this times the derivative of the covariance
        outer = cho_solve((factor, True), np.eye(len(losses)), check_finite=False) - np.outer(
            weights, weights
        )
        by_feature = outer * (value + departure * kt) * slope_x
        by_height = outer * (departure * kx + common + own * same) * slope_t
        gradient = [np.vdot(by_feature, s) * i for s, i in zip(squares[:-1], inverse, strict=False)]
        gradient.append(np.vdot(by_height, height))
        gradient += [np.vdot(outer, part) for part in parts]
        gradient.append(np.trace(outer) * noise)
        z = (theta - self._prior_mean) / self._prior_deviation
        objective = 0.5 * losses @ weights + np.log(np.diag(factor)).sum() + 0.5 * z @ z
        return float(objective), 0.5 * np.array(gradient) + z / self._prior_deviation


def _distances(a: Array, b: Array) -> Array:
    """Return the squared distances (n x m) between rows."""
    squares = np.add.outer(np.square(a).sum(axis=1), np.square(b).sum(axis=1)) - 2 * a @ b.T
    distances: Array = np.maximum(squares, 0.0)
    return distances


def _matern(squares: Array) -> Array:
    """Return the Matérn kernel with smoothness 5/2 of squared distances in length scales."""
    distance = np.sqrt(5 * squares)
    kernel: Array = np.exp(-distance)
    kernel *= 1 + distance + 5 / 3 * squares
    return kernel


def _matern_slope(squares: Array) -> Array:
    """Return its derivative by the logarithm of a length scale, over the squared distance along it."""
    distance = np.sqrt(5 * squares)
    slope: Array = 5 / 3 * (1 + distance) * np.exp(-distance)
    return slope
