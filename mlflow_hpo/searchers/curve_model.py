"""A Gaussian process of learning curves: the loss of any configuration after any number of epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from mlflow_hpo.searchers.encoding import Array, Floats

_ITERATIONS = 30  # of one fit at most
_JITTER = 1e-6  # keeps nearly singular matrices solvable
_WIDTH = 4.0  # hyperparameters stay that many standard deviations of their prior around its mean

# mean and standard deviation of the normal priors of the hyperparameters' logarithms
_WARP = (0.0, 0.5)
_FEATURE_SCALE = (0.0, 1.0)
_HEIGHT_SCALE = (math.log(0.7), 0.7)
_VARIANCES = (  # of the parts of the kernel, in the order of the class docstring
    (math.log(0.5), 1.0),
    (math.log(0.5), 1.0),
    (math.log(0.3), 1.0),
    (math.log(0.02), 1.0),
)
_PARTS = len(_VARIANCES)
_NOISE = (math.log(1e-3), 1.0)
_TAUGHT = (  # of the parts that earlier tasks bring
    (math.log(0.1), 1.0),
    (math.log(0.3), 1.0),
    (math.log(0.1), 1.0),
)


@dataclass(frozen=True)
class Points:
    """Places on learning curves.

    Attributes:
        features: of the configurations, n x f, in [0, 1].
        heights: how far along the curve, n; 0 is the first level and 1 a full training.
        curves: which curve each place is on, n numbers; two places with the same number are on the same one.
        trends: the losses that each of some earlier tasks leads to expect there, n x t; None without any.
    """

    features: Array
    heights: Array
    curves: npt.NDArray[np.int64]
    trends: Array | None = None

    def __len__(self) -> int:
        return len(self.heights)

    def __add__(self, other: Points) -> Points:
        return Points(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.heights, other.heights]),
            np.concatenate([self.curves, other.curves]),
            None
            if self.trends is None or other.trends is None
            else np.concatenate([self.trends, other.trends]),
        )


class CurveModel:
    """A Gaussian process over configurations and epochs, for losses with mean 0 and standard deviation 1.

    With Matérn kernels ``kx`` of the features, one length scale for each, and ``kt`` of the heights, the
    covariance of the losses at two places is the sum of four parts, each with a variance of its own:

    - ``kx``: what a configuration is worth, at any height;
    - ``kx * kt``: how its curve departs from that;
    - ``kt``: the curve that all configurations have in common;
    - ``kt`` for places on the same curve: what the configuration does not explain, such as the seed.

    Where earlier tasks lead to expect losses (`Points.trends`), the model begins with their weighted mean
    times `trust`, and may depart from it in three more ways: by a factor, by other weights of the tasks, and
    by a constant. So which tasks are similar is learnt from the losses themselves, also when `trust` is 0.

    Each feature `x` first becomes ``1 - (1 - x**a)**b``, with its own `a` and `b`, as losses often change
    most near a bound. All these hyperparameters maximise the marginal likelihood times log-normal priors.

    Args:
        features: how many features there are, f.
        weights: how much each of the earlier tasks counts at first, t, the sum being 1; None without any.

    Attributes:
        trust: how much the mean of the losses is what earlier tasks lead to expect, from 0 to 1.

    Source: Swersky et al., Freeze-Thaw Bayesian Optimization, 2014, for the idea; Snoek et al., Input Warping
    for Bayesian Optimization of Non-Stationary Functions, ICML 2014, for the warp; Rasmussen and Williams,
    Gaussian Processes for Machine Learning, 2006, sections 2.2, 4.2 and 5.4 for the formulas.

    >>> model = CurveModel(features=1)
    >>> seen = Points(np.array([[0.2], [0.2], [0.8]]), np.array([0.0, 1.0, 0.0]), np.array([0, 0, 1]))
    >>> model.condition(seen, np.array([0.0, -1.0, 1.2]))
    >>> mean, deviation = model.predict(Points(np.array([[0.8]]), np.array([1.0]), np.array([1])))
    >>> bool(-1.0 < mean[0] < 1.2)
    True
    """

    def __init__(self, features: int, weights: Array | None = None) -> None:
        warps, scales = [_WARP] * (2 * features), [_FEATURE_SCALE] * features
        variances = _VARIANCES if weights is None else (*_VARIANCES, *_TAUGHT)
        self._weights_of_tasks = np.empty(0) if weights is None else weights
        priors = np.array([*warps, *scales, _HEIGHT_SCALE, *variances, _NOISE])
        self._prior_mean, self._prior_deviation = priors.T
        self._split = np.cumsum([2 * features, features, 1, len(variances)])
        self.trust = 1.0
        self._theta = self._prior_mean  # the logarithms of the hyperparameters, in the order of the priors

    def fit(self, points: Points, losses: Array) -> None:
        """Adapt the hyperparameters to the losses (n) at `points`, starting at those of the last fit."""
        width = _WIDTH * self._prior_deviation
        found = minimize(
            self._objective,
            self._theta,
            args=(points, losses),
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
        *_, noise = self._parameters(self._theta)
        covariance[diagonal] += noise
        jitter = _JITTER
        while True:
            covariance[diagonal] += jitter
            try:
                self._factor = cholesky(covariance, lower=True, check_finite=False)
                break
            except LinAlgError:
                jitter *= 10
        self._points = points
        self._weights = cho_solve((self._factor, True), losses - self.expected(points), check_finite=False)

    def predict(self, points: Points) -> tuple[Array, Array]:
        """Return the mean (n) and standard deviation (n) of the losses at `points`, noise left out."""
        cross = self._covariance(points, self._points)
        explained = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        _, _, _, variances, _ = self._parameters(self._theta)
        variance = variances[:_PARTS].sum() - np.square(explained).sum(axis=0)
        for taught, root in zip(variances[_PARTS:], self._taught(points), strict=True):
            variance = variance + taught * np.square(root).sum(axis=1)
        return self.expected(points) + cross @ self._weights, np.sqrt(np.maximum(variance, 1e-10))

    def expected(self, points: Points) -> Array:
        """Return the losses (n) that earlier tasks lead to expect, as far as trusted; 0 without any."""
        if points.trends is None:
            return np.zeros(len(points))
        expected: Array = self.trust * (points.trends @ self._weights_of_tasks)
        return expected

    def _taught(self, points: Points) -> list[Array]:
        """Return (n x any number) what makes each part of the covariance that earlier tasks bring."""
        if points.trends is None:
            return []
        mean = (points.trends @ self._weights_of_tasks)[:, None]
        apart = (points.trends - mean) * np.sqrt(self._weights_of_tasks)
        return [mean, apart, np.ones((len(points), 1))]

    @property
    def scales(self) -> Array:
        """The length scale of each feature (f)."""
        _, scales, *_ = self._parameters(self._theta)
        return scales

    def unwarped(self, warped: Array) -> Array:
        """Return the features (n x f) that the warp makes `warped`, in [0, 1].

        Evenly spread ones become features that lie close where the losses change most.
        """
        (a, b), *_ = self._parameters(self._theta)
        features: Array = (1 - (1 - warped) ** (1 / b)) ** (1 / a)
        return features

    def _covariance(self, a: Points, b: Points) -> Array:
        warps, scales, height, variances, _ = self._parameters(self._theta)
        value, departure, common, own = variances[:_PARTS]
        at_configuration = matern(
            squared_distances(_warped(a.features, warps) / scales, _warped(b.features, warps) / scales)
        )
        at_height = _height_kernel(a.heights, b.heights, height)
        same = np.equal.outer(a.curves, b.curves)
        covariance: Array = at_configuration * (value + departure * at_height)
        covariance += at_height * (common + own * same)
        for variance, left, right in zip(variances[_PARTS:], self._taught(a), self._taught(b), strict=True):
            covariance += variance * (left @ right.T)
        return covariance

    def _parameters(self, theta: Array) -> tuple[Array, Array, float, Array, float]:
        """Return warps (2 x f), length scales (f), that of the heights, variances (4 or 7), the noise."""
        warps, scales, height, variances, noise = np.split(np.exp(theta), self._split)
        return warps.reshape(2, -1), scales, float(height[0]), variances, float(noise[0])

    def _objective(self, theta: Array, points: Points, losses: Array) -> tuple[float, Array]:
        """Return the negative logarithm of likelihood times prior, up to a constant, and its gradient."""
        warps, scales, height_scale, variances, noise = self._parameters(theta)
        value, departure, common, own = variances[:_PARTS]
        scaled = _warped(points.features, warps) / scales
        squares = squared_distances(scaled, scaled)
        kx, slope_x = matern(squares), _matern_slope(squares)
        height = np.square(np.subtract.outer(points.heights, points.heights) / height_scale)
        kt, slope_t = matern(height), _matern_slope(height)
        same = np.equal.outer(points.curves, points.curves)
        parts = [value * kx, departure * kx * kt, common * kt, own * kt * same]
        taught = zip(variances[_PARTS:], self._taught(points), strict=True)
        parts += [variance * (root @ root.T) for variance, root in taught]
        covariance = sum(parts[1:], parts[0].copy())
        covariance[np.diag_indices(len(losses))] += noise + _JITTER
        try:
            factor = cholesky(covariance, lower=True, check_finite=False)
        except LinAlgError:
            return 1e10, np.zeros_like(theta)
        losses = losses - self.expected(points)
        weights = cho_solve((factor, True), losses, check_finite=False)
        # d(-log likelihood) / d(theta) is half the sum over this times the derivative of the covariance
        outer = cho_solve((factor, True), np.eye(len(losses)), check_finite=False) - np.outer(
            weights, weights
        )
        by_feature = outer * (value + departure * kt) * slope_x
        by_height = outer * (departure * kx + common + own * same) * slope_t
        by_a, by_b = _warp_slopes(points.features, warps)
        others = [
            np.vdot(by_height, height),
            *(np.vdot(outer, part) for part in parts),
            np.trace(outer) * noise,
        ]
        gradient = np.concatenate(
            [
                -_twisted(by_feature, scaled, by_a / scales),
                -_twisted(by_feature, scaled, by_b / scales),
                _twisted(by_feature, scaled, scaled),
                np.array(others),
            ]
        )
        z = (theta - self._prior_mean) / self._prior_deviation
        objective = 0.5 * losses @ weights + np.log(np.diag(factor)).sum() + 0.5 * z @ z
        return float(objective), 0.5 * gradient + z / self._prior_deviation


def _height_kernel(a: Array, b: Array, scale: float) -> Array:
    """Return ``kt`` (n x m); worked out for distinct heights only, of which there are few."""
    rows, row = np.unique(a, return_inverse=True)
    columns, column = np.unique(b, return_inverse=True)
    kernel: Array = matern(np.square(np.subtract.outer(rows, columns) / scale))[:, column][row]
    return kernel


def _warped(features: Array, warps: Array) -> Array:
    """Return ``1 - (1 - x**a)**b`` of each feature (n x f), with `a` and `b` the rows of `warps` (2 x f)."""
    a, b = warps
    warped: Array = 1 - (1 - _inside(features) ** a) ** b
    return warped


def _warp_slopes(features: Array, warps: Array) -> tuple[Array, Array]:
    """Return the derivatives (n x f) of what `_warped` returns by the logarithms of `a` and of `b`."""
    a, b = warps
    x = _inside(features)
    power = x**a
    rest = (1 - power) ** b
    return a * b * rest / (1 - power) * power * np.log(x), -b * rest * np.log1p(-power)


def _inside(features: Array) -> Array:
    """Return the features without their bounds, at which the warp has no slope."""
    inside: Array = np.clip(features, 1e-6, 1 - 1e-6)
    return inside


def _twisted(matrix: Array, a: Array, b: Array) -> Array:
    """Return (f) the sums over all i and j of ``matrix[i, j] * (a[i] - a[j]) * (b[i] - b[j])``.

    The matrix (n x n) is symmetric, `a` and `b` are n x f.
    """
    twice: Array = 2 * ((matrix.sum(axis=1) @ (a * b)) - ((matrix @ a) * b).sum(axis=0))
    return twice


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Return the squared distances (n x m) between rows."""
    squares: Floats = np.add.outer(np.square(a).sum(axis=1), np.square(b).sum(axis=1))
    squares -= 2 * a @ b.T
    np.maximum(squares, 0.0, out=squares)
    return squares


def matern(squares: Floats) -> Floats:
    """Return the Matérn kernel with smoothness 5/2 of squared distances in length scales."""
    distance = np.sqrt(5 * squares)
    kernel: Floats = np.exp(-distance)
    distance += 1  # in place: most of the time goes into moving memory
    distance += 5 / 3 * squares
    kernel *= distance
    return kernel


def _matern_slope(squares: Array) -> Array:
    """Return its derivative by the logarithm of a length scale, over the squared distance along it."""
    distance = np.sqrt(5 * squares)
    slope: Array = 5 / 3 * (1 + distance) * np.exp(-distance)
    return slope
