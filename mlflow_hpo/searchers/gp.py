"""Bayesian optimisation with a Gaussian process."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from mlflow_hpo.checks import finite_number, one_of, shown, whole_number
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.searchers.base import Searcher
from mlflow_hpo.searchers.encoding import Array, Encoding
from mlflow_hpo.searchers.sobol import SobolSearcher
from mlflow_hpo.searchers.surrogate import ACQUISITIONS, Surrogate
from mlflow_hpo.space import Config, SearchSpace

_BEST = 100  # the model sees that many of the best losses at the level it looks at ...
_LATEST = 200  # ... that many of the latest losses at any level ...
_FAILED = 50  # ... and that many of the latest trials without one,
_PENDING = 100  # and believes in that many of the latest pending ones, so that its cost stays bounded
_DRAWN = 400  # candidates from the prior, and around each of the best `_PARENTS` as many as stand beside
_PARENTS, _CHILDREN = 6, 30
_SPREADS = (0.1, 0.03, 0.01)  # standard deviations around the best, round by round
_MOST_AT_ONCE, _PENDING_FOR_ONE_MORE = 16, 16  # proposals by one look at the model
_TRIED = -1e6  # is added to what a configuration promises that was tried before
_POOL = 200  # of the most promising candidates, from which all but the first are chosen


class GpSearcher(Searcher):
    """Proposes where a Gaussian process of the losses promises most.

    The first `n_startup` proposals, and all until so many trials have a finite loss, are a Sobol sequence.
    The model sees the losses at all `levels`, the level being one more of its inputs, so that early-stopped
    trials teach it; it decides for the highest level at which `n_startup` trials have a finite loss.
    Losses above the upper quartile by more than 1.5 times the quartiles' distance are cut there; infinite
    losses, and trials that failed or ended without a loss, count as the worst that remains. The losses are
    then scaled to mean 0 and deviation 1.

    How much evaluating a configuration promises is the acquisition, of the expected loss m, its standard
    deviation s, the least expected loss f among the trials, z = (f - m) / s, and the normal distribution's
    density p and cumulative function P:

    - ``log_ei`` (or ``ei``), the logarithm of the expected improvement: log(s (p(z) + z P(z)));
    - ``ucb``, the lower confidence bound of the loss: kappa * s - m;
    - ``pi``, the logarithm of the probability of improvement: log P(z).

    It is maximised over configurations as they would be proposed, whatever their kinds and conditions: draws
    from the prior and variations of the best known ones, then thrice variations of the most promising. A
    configuration that was tried is proposed again only if there is none other. Pending trials are believed to
    bring what the model expects of them, one after the other. With many workers one look at the model makes
    up to 16 proposals, each believed before the next is chosen.

    Args:
        acquisition: "log_ei" ("ei" is the same), "ucb" or "pi".
        kappa: standard deviations, for "ucb".
        n_startup: trials with a finite loss that are wanted before the model proposes, 2 or more.
        noise: whether the same configuration may bring different losses; their noise is estimated then.
        warp: whether the model also learns where on its scale each parameter matters most. It pays where good
            values lie near a bound, and costs time.

    Source: Jones et al., Efficient Global Optimization, 1998; the logarithm as in Ament et al., Unexpected
    Improvements to Expected Improvement, NeurIPS 2023; `ucb` by Srinivas et al., ICML 2010; `pi` by Kushner,
    1964; levels as inputs as in Klein et al., Model-based Asynchronous Hyperparameter and Neural Architecture
    Search, 2020. For the model and for pending trials see `Surrogate`.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        levels: Sequence[int],
        *,
        acquisition: Any = "log_ei",
        kappa: Any = 2.0,
        n_startup: Any = 10,
        noise: Any = True,
        warp: Any = False,
    ) -> None:
        self.space = space
        self._seed = seed
        self._acquisition = one_of("acquisition", acquisition, ACQUISITIONS)
        self._kappa = finite_number("kappa", kappa, above=0)
        self._enough = whole_number("n_startup", n_startup, at_least=2)
        for name, switch in (("noise", noise), ("warp", warp)):
            if not isinstance(switch, bool):
                raise ConfigError(name, f"must be true or false, got {shown(switch)}")
        self._surrogate = Surrogate(noisy=noise, warped=warp)
        self._prior = SobolSearcher(space, seed, levels)
        self._encoding = Encoding(space)
        self._levels = tuple(levels)
        self._points: dict[int, Array] = {}  # each trial's configuration in the unit cube
        self._tried: set[bytes] = set()
        self._pending: dict[int, None] = {}  # sets that keep their order
        self._barren: dict[int, None] = {}  # failed, or ended without a loss
        self._queue: deque[Array] = deque()  # points that were chosen at once and not proposed so far
        self._losses: dict[tuple[int, int], float] = {}  # (trial, level) -> loss, in order of arrival
        # at each level (loss, trial) of those with a finite loss, ascending
        self._finite: dict[int, list[tuple[float, int]]] = {level: [] for level in self._levels}

    def suggest(self, trial_id: int) -> Config:
        """Propose what promises most, or the next point of the Sobol sequence while there is no model."""
        if not self._queue:
            self._queue.extend(self._promising(trial_id))
        if self._queue:
            config = self.space.from_unit(self._queue.popleft().tolist())
        else:
            config = self._prior.suggest(trial_id)
        self.adopt(trial_id, config)
        return config

    def adopt(self, trial_id: int, config: Config) -> None:
        """Count the trial as pending."""
        self._points[trial_id] = point = self._encoding.point(self.space.to_unit(config))
        self._tried.add(point.tobytes())
        self._pending[trial_id] = None

    def report(self, trial_id: int, resource: int, loss: float) -> None:
        """Learn from the loss if the trial stands at one of the levels."""
        if resource in self._finite:
            self._pending.pop(trial_id, None)
            self._losses[trial_id, resource] = loss
            if loss < math.inf:
                insort(self._finite[resource], (loss, trial_id))

    def complete(self, trial_id: int) -> None:
        """Count a trial that brought no loss at any level as bad."""
        if trial_id in self._pending:
            self.fail(trial_id)

    def fail(self, trial_id: int) -> None:
        """Count the trial as bad at every level that it did not reach."""
        self._pending.pop(trial_id, None)
        self._barren[trial_id] = None

    def _promising(self, trial_id: int) -> list[Array]:
        """Return the points that promise most; none while too few losses are known, or all are the same."""
        level = next(
            (at for at, ranked in reversed(self._finite.items()) if len(ranked) >= self._enough), None
        )
        if level is None:
            return []
        points, levels, losses = self._data(level)
        deviation = losses.std()
        if deviation == 0:
            return []
        losses = (losses - losses.mean()) / deviation
        rng = np.random.default_rng((self._seed, trial_id))
        with self._surrogate.isolated(int(rng.integers(2**31))):
            features = self._features(points, levels)
            model = self._surrogate.fit(features, losses)
            expected = self._surrogate.mean(model, self._features(points, level))
            pending = [self._points[trial] for trial in islice(reversed(self._pending), _PENDING)]

            def promise() -> Callable[[Array], Array]:
                """Return the acquisition as it is if what is pending brings what the model expects."""
                believed = model
                if pending:
                    waiting = self._features(np.array(pending), level)
                    believed = self._surrogate.believe(model, features, losses, waiting)
                of_features = self._surrogate.acquisition(
                    believed, self._acquisition, expected.min(), self._kappa
                )
                return lambda some: of_features(self._features(some, level))

            best = points[np.argsort(expected, kind="stable")[:_PARENTS]]
            pool, values = self._candidates(promise(), best, rng)
            chosen = [pool[np.argmax(values)]]
            pool = pool[np.argsort(-values, kind="stable")[:_POOL]]
            for _ in range(min(_MOST_AT_ONCE - 1, len(self._pending) // _PENDING_FOR_ONE_MORE)):
                pending.append(chosen[-1])
                pool = pool[(pool != chosen[-1]).any(axis=1)]
                if len(pool) == 0:
                    break
                values = self._unless_tried(pool, promise()(pool))
                if values.max() <= _TRIED / 2:
                    break
                chosen.append(pool[np.argmax(values)])
        return chosen

    def _data(self, level: int) -> tuple[Array, Array, Array]:
        """Return what the model sees: points (n x d), levels (n) and losses (n) within [-1, 1]."""
        seen = dict.fromkeys((trial, level) for _, trial in self._finite[level][:_BEST])
        seen |= dict.fromkeys(islice(reversed(self._losses), _LATEST))
        for trial in islice(reversed(self._barren), _FAILED):
            seen[trial, level] = None
        losses = np.array([self._losses.get(key, math.inf) for key in seen])
        losses /= np.abs(losses[np.isfinite(losses)]).max() or 1.0  # differences of huge ones would overflow
        finite = losses[np.isfinite(losses)]
        low, high = np.quantile(finite, [0.25, 0.75])
        worst = min(high + 1.5 * (high - low), finite.max()) if high > low else finite.max()
        points = np.array([self._points[trial] for trial, _ in seen])
        return points, np.array([at for _, at in seen], dtype=float), np.minimum(losses, worst)

    def _features(self, points: Array, levels: Array | float) -> Array:
        features = self._encoding.features(*self._encoding.snap(points))
        if len(self._levels) == 1:
            return features
        first, last = self._levels[0], self._levels[-1]
        height = np.log(np.asarray(levels, dtype=float) / first) / math.log(last / first)
        return np.column_stack([features, np.broadcast_to(height, len(points))])

    def _candidates(
        self, promise: Callable[[Array], Array], best: Array, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """Return points (n x d), among them promising ones, and what each promises (n)."""
        drawn = rng.random((_DRAWN, len(self.space)))
        points, _ = self._encoding.snap(np.concatenate([drawn, self._vary(best, _SPREADS[0], rng)]))
        values = self._unless_tried(points, promise(points))
        for spread in _SPREADS:
            parents = points[np.argsort(-values, kind="stable")[:_PARENTS]]
            varied, _ = self._encoding.snap(self._vary(parents, spread, rng))
            points = np.concatenate([points, varied])
            values = np.concatenate([values, self._unless_tried(varied, promise(varied))])
        return points, values

    def _vary(self, parents: Array, spread: float, rng: np.random.Generator) -> Array:
        """Return `_CHILDREN` variations of each parent: some coordinates moved, some choices redrawn."""
        points = np.repeat(parents, _CHILDREN, axis=0)
        _, active = self._encoding.snap(points)
        drawn = rng.random(points.shape)
        moved = np.clip(points + spread * rng.standard_normal(points.shape), 0.0, 1.0)
        changes = rng.random(points.shape) < max(0.3, 1 / points.shape[1])
        varied = np.where(changes, np.where(self._encoding.categorical, drawn, moved), points)
        return np.where(active, varied, drawn)  # what becomes active begins anywhere

    def _unless_tried(self, points: Array, values: Array) -> Array:
        tried = np.array([point.tobytes() in self._tried for point in points])
        return np.where(tried, values + _TRIED, values)
