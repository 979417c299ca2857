"""Freeze-thaw Bayesian optimisation: a model of the learning curves proposes, and says what goes on."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from scipy.special import log_ndtr, ndtri
from threadpoolctl import ThreadpoolController

from mlflow_hpo.checks import whole_number
from mlflow_hpo.searchers.base import Searcher
from mlflow_hpo.searchers.curve_model import CurveModel, Points
from mlflow_hpo.searchers.encoding import Array, Encoding
from mlflow_hpo.searchers.sobol import SobolSearcher
from mlflow_hpo.space import Config, SearchSpace

_BEST = 200  # the model sees that many losses of the best trials, ...
_LATEST = 100  # ... that many of the latest others, ...
_FAILED = 30  # ... that many of the latest trials without any, ...
_PENDING = 100  # ... and that many of the latest pending ones, so that its cost stays bounded
_GROWTH = 1.2  # the model is fitted again once there is so much more data

_DRAWN = 400  # candidates from the prior
_PARENTS, _CHILDREN = 8, 12  # and around each of the best trials
_SPREADS = (0.15, 0.05)  # with these standard deviations
_REFINED, _VARIATIONS = 5, 20  # then around each of the most promising candidates
_REFINEMENTS = (0.1, 0.03)
_MOST_AT_ONCE, _PENDING_FOR_ONE_MORE = 16, 20  # choices by one look at the model
_NEW = -1  # the curve of a trial that does not exist so far

_Choice = tuple[int | None, Array | None]  # a paused trial, or the point of a new one
_IMPROVEMENTS = (-2.0, 0.0)  # powers of 10 of the improvement hoped for
_FAR = 6.0  # a loss that is better than the median by more is drawn towards it


class FreezeThawSearcher(Searcher):
    """Models the learning curves of all trials together; made for the scheduler of the same name.

    A Gaussian process (`CurveModel`) of configurations and epochs learns from the losses of all trials at the
    levels of the scheduler. Losses above their median are first replaced by the normal quantiles of their
    ranks, so that it does not matter how bad the bad ones are; infinite ones, and trials that failed, rank
    last. Those below are scaled by their own spread, so that it does matter how good the good ones are.

    For each decision a horizon and a threshold are drawn: epochs, from 1 to a full training, and
    ``best - 10**u * (median - best)`` with `u` from -2 to 0, of the losses so far. What is chosen has the
    highest probability to get below that threshold if it is trained by that horizon: a paused trial from
    where it stands or a new one from the beginning, at least to the next level. Short horizons favour what is
    cheap and long ones what lasts; large improvements favour what is little known, small ones what is known
    to be good. The chance in it keeps many workers apart; besides, pending trials are believed to bring what
    the model expects of them.

    New configurations compete as draws from the prior, half of them closer together where the model finds
    that the losses change most, as variations of the best trials, and as variations of the most promising of
    all. The first `n_startup` are the centre of the space and a Sobol sequence. With another scheduler only
    new ones compete.

    Args:
        n_startup: configurations before the model proposes.

    Source: Swersky et al., Freeze-Thaw Bayesian Optimization, 2014; random horizon and threshold as in
    Rakotoarison et al., In-Context Freeze-Thaw Bayesian Optimization, ICML 2024, section 4.2; pending trials
    as in Ginsbourger et al., Kriging Is Well-Suited to Parallelize Optimization, 2010.
    """

    def __init__(self, space: SearchSpace, seed: int, levels: Sequence[int], *, n_startup: Any = 6) -> None:
        self.space = space
        self._levels = tuple(levels)
        self._n_startup = whole_number("n_startup", n_startup, at_least=1)
        self._rng = np.random.default_rng(seed)
        self._sobol = SobolSearcher(space, seed, levels)
        self._encoding = Encoding(space)
        self._points: dict[int, Array] = {}  # each trial's place in the unit cube
        self._tried: set[bytes] = set()
        self._pending: dict[int, None] = {}  # trials with a job, in the order of their beginning
        self._reached: dict[int, int] = {}  # how many levels each trial reached
        self._at_level: dict[tuple[int, int], float] = {}  # losses by trial and level
        self._ranked: list[tuple[float, int]] = []  # (loss, trial) at every level, ascending
        self._barren: dict[int, None] = {}  # trials that failed before the first level
        self._queue: deque[_Choice] = deque()  # choices that were made at once and not used so far
        self._proposal: Array | None = None  # the new configuration that `advise` found
        self._model: CurveModel | None = None
        self._fitted = 0  # losses known at the last fit

    def advise(self, paused: Mapping[int, int], *, may_start: bool) -> int | None:
        """Return which paused trial should go on, or None for a new one."""
        if may_start and not self._modelled:
            choice, self._proposal = None, None
        else:
            while self._queue and not self._fits(self._queue[0][0], paused, may_start=may_start):
                self._queue.popleft()
            if not self._queue:
                self._queue.extend(self._choose(list(paused), may_start=may_start))
            choice, self._proposal = self._queue.popleft()
        if choice is not None:
            self._pending[choice] = None
        return choice

    def suggest(self, trial_id: int) -> Config:
        """Propose what `advise` found, or what promises most now."""
        point, self._proposal = self._proposal, None
        if point is None and self._modelled:
            while self._queue and not self._fits(self._queue[0][0], {}, may_start=True):
                self._queue.popleft()
            if not self._queue:
                self._queue.extend(self._choose([], may_start=True))
            _, point = self._queue.popleft()
        if point is None and trial_id == 0:
            point = np.full(len(self.space), 0.5)
        config = self._sobol.suggest(trial_id) if point is None else self.space.from_unit(point.tolist())
        self.adopt(trial_id, config)
        return config

    def adopt(self, trial_id: int, config: Config) -> None:
        """Count the trial as pending."""
        point = self._encoding.point(self.space.to_unit(config))
        self._points[trial_id] = point
        self._tried.add(point.tobytes())
        self._pending[trial_id] = None
        self._reached[trial_id] = 0

    def report(self, trial_id: int, resource: int, loss: float) -> None:
        """Learn from the loss if the trial stands at its next level."""
        level = self._reached[trial_id]
        if level < len(self._levels) and resource >= self._levels[level]:
            self._reached[trial_id] += 1
            self._at_level[trial_id, level] = loss
            insort(self._ranked, (loss, trial_id))

    def complete(self, trial_id: int) -> None:
        """Count the trial as no longer pending."""
        if self._reached[trial_id] == 0:
            self._barren[trial_id] = None
        self._pending.pop(trial_id, None)

    def fail(self, trial_id: int) -> None:
        """Count a trial that never reached a level as the worst."""
        self.complete(trial_id)

    @staticmethod
    def _fits(choice: int | None, paused: Mapping[int, int], *, may_start: bool) -> bool:
        """Whether what was chosen before is still to be had."""
        return may_start if choice is None else choice in paused

    @property
    def _modelled(self) -> bool:
        """Whether the model knows enough to choose."""
        return len(self._points) >= self._n_startup and len(self._at_level) + len(self._barren) >= 2

    def _choose(self, paused: list[int], *, may_start: bool) -> list[_Choice]:
        """Return what promises most: paused trials, or the points of new ones.

        With many workers the model is asked for several choices at once, as it changes little in between.
        """
        # the matrices are small and the trainings want the cores; besides, more threads round differently
        with self._threads.limit(limits=1):
            return self._promising(paused, may_start=may_start)

    @cached_property
    def _threads(self) -> ThreadpoolController:
        return ThreadpoolController()  # looks for the libraries that are loaded by now

    def _promising(self, paused: list[int], *, may_start: bool) -> list[_Choice]:
        seen, losses = self._seen()
        model = self._conditioned(seen, losses)
        best = losses.min()
        hoped_for = (np.median(losses) - best) * 10 ** self._rng.uniform(*_IMPROVEMENTS, size=self._at_once)
        horizon = float(self._rng.uniform(1, self._levels[-1]))

        def outlook(features: Array, curves: Sequence[int], levels: Sequence[int]) -> tuple[Array, Array]:
            """Return the mean and standard deviation of the losses at the horizon."""
            begins = [self._levels[level - 1] if level else 0 for level in levels]
            ends = [
                min(max(begin + horizon, self._levels[level]), self._levels[-1])
                for begin, level in zip(begins, levels, strict=True)
            ]
            return model.predict(Points(features, self._heights(ends), np.array(curves)))

        def outlook_of_new(points: Array) -> tuple[Array, Array]:
            count = len(points)
            return outlook(self._features(points), [_NEW] * count, [0] * count)

        mean, deviation = np.empty(0), np.empty(0)
        if paused:
            points = np.array([self._points[trial] for trial in paused])
            levels = [self._reached[trial] for trial in paused]
            mean, deviation = outlook(self._features(points), paused, levels)
        points = np.empty((0, len(self.space)))
        if may_start:
            points, of_new, deviation_of_new = self._new_points(
                self._drawn(model), best - hoped_for[0], outlook_of_new
            )
            mean, deviation = np.concatenate([mean, of_new]), np.concatenate([deviation, deviation_of_new])
        open_ = np.array([True] * len(paused) + [point.tobytes() not in self._tried for point in points])
        choices: list[_Choice] = []
        for threshold in best - hoped_for[: len(mean)]:
            promises = log_ndtr((threshold - mean) / deviation)
            chosen = int(np.argmax(np.where(open_, promises, promises - 1e9)))
            open_[chosen] = False
            new = chosen - len(paused)
            choices.append((None, points[new]) if new >= 0 else (paused[chosen], None))
        return choices

    @property
    def _at_once(self) -> int:
        """How many choices are made by one look at the model."""
        return min(_MOST_AT_ONCE, 1 + len(self._pending) // _PENDING_FOR_ONE_MORE)

    def _drawn(self, model: CurveModel) -> Array:
        """Return draws from the prior, half of them closer together where the losses change most."""
        drawn = self._rng.random((_DRAWN, len(self.space)))
        half = drawn[: _DRAWN // 2]
        warped = np.zeros((len(half), model.features))
        warped[:, self._encoding.columns] = half[:, ~self._encoding.categorical]
        half[:, ~self._encoding.categorical] = model.unwarped(warped)[:, self._encoding.columns]
        return drawn

    def _new_points(
        self, drawn: Array, threshold: float, outlook: Callable[[Array], tuple[Array, Array]]
    ) -> tuple[Array, Array, Array]:
        """Return candidates in the unit cube, among them promising ones, with their `outlook`."""
        parents = list(dict.fromkeys(trial for _, trial in islice(self._ranked, 4 * _PARENTS)))[:_PARENTS]
        around = np.array([self._points[trial] for trial in parents]).reshape(-1, len(self.space))
        varied = [self._vary(around, _CHILDREN, spread) for spread in _SPREADS]
        points, _ = self._encoding.snap(np.concatenate([drawn, *varied]))
        mean, deviation = outlook(points)
        for spread in _REFINEMENTS:
            best = np.argsort(-log_ndtr((threshold - mean) / deviation), kind="stable")[:_REFINED]
            refined, _ = self._encoding.snap(self._vary(points[best], _VARIATIONS, spread))
            refined_mean, refined_deviation = outlook(refined)
            points = np.concatenate([points, refined])
            mean = np.concatenate([mean, refined_mean])
            deviation = np.concatenate([deviation, refined_deviation])
        return points, mean, deviation

    def _vary(self, parents: Array, children: int, spread: float) -> Array:
        """Return variations of each parent: about half of the coordinates moved, some choices redrawn."""
        points = np.repeat(parents, children, axis=0)
        _, active = self._encoding.snap(points)
        drawn = self._rng.random(points.shape)
        moved = np.clip(points + spread * self._rng.standard_normal(points.shape), 0.0, 1.0)
        draws = self._rng.random(points.shape)
        changed = np.where(self._encoding.categorical, draws < spread, draws < 0.5)
        varied = np.where(changed, np.where(self._encoding.categorical, drawn, moved), points)
        return np.where(active, varied, drawn)  # what becomes active begins anywhere

    def _seen(self) -> tuple[Points, Array]:
        """Return what the model learns from: places on curves, and the losses there as `_scaled` has them."""
        trials = dict.fromkeys(trial for _, trial in islice(self._ranked, _BEST))
        best = [(trial, level) for trial in trials for level in range(self._reached[trial])][:_BEST]
        latest = islice((key for key in reversed(self._at_level) if key[0] not in trials), _LATEST)
        keys = [*best, *latest, *((trial, 0) for trial in islice(reversed(self._barren), _FAILED))]
        keys.sort()
        losses = _scaled(np.array([self._at_level.get(key, math.inf) for key in keys]))
        features = self._features(np.array([self._points[trial] for trial, _ in keys]))
        heights = self._heights([self._levels[level] for _, level in keys])
        return Points(features, heights, np.array([trial for trial, _ in keys])), losses

    def _conditioned(self, seen: Points, losses: Array) -> CurveModel:
        """Return the model that knows the losses at `seen`, and believes in those of pending trials."""
        known = len(self._at_level) + len(self._barren)
        if self._model is None:
            self._model = CurveModel(seen.features.shape[1])
        if known >= self._fitted * _GROWTH:
            self._model.fit(seen, losses)
            self._fitted = known
        self._model.condition(seen, losses)
        pending = [
            trial
            for trial in islice(reversed(self._pending), _PENDING)
            if self._reached[trial] < len(self._levels)
        ]
        if pending:
            waiting = Points(
                self._features(np.array([self._points[trial] for trial in pending])),
                self._heights([self._levels[self._reached[trial]] for trial in pending]),
                np.array(pending),
            )
            expected, _ = self._model.predict(waiting)
            self._model.condition(seen + waiting, np.concatenate([losses, expected]))
        return self._model

    def _features(self, points: Array) -> Array:
        return self._encoding.features(*self._encoding.snap(points))

    def _heights(self, epochs: Sequence[float]) -> Array:
        """Return how far along a curve some epochs are, on the logarithmic scale."""
        first, last = self._levels[0], self._levels[-1]
        if first == last:
            return np.ones(len(epochs))
        heights: Array = np.log(np.array(epochs) / first) / math.log(last / first)
        return heights


def _scaled(losses: Array) -> Array:
    """Return losses (n), of which some may be infinite, on a scale that a Gaussian process can take.

    Their order stays. Above the median of the finite ones they become the normal quantiles of their ranks.
    Below it they keep their proportions: the best eighth begins where it would by its quantile.
    """
    from scipy.stats import rankdata  # takes a second to import

    quantiles: Array = ndtri((rankdata(losses) - 0.5) / len(losses))
    finite = losses[np.isfinite(losses)]
    if len(finite) < 4:
        return quantiles
    eighth, median = np.quantile(finite, [0.125, 0.5])
    with np.errstate(all="ignore"):  # of losses that are the same, or at the ends of floats
        below = (median - losses) / (median - eighth)
    if not np.isfinite(below[losses < median]).all() or not median > eighth:
        return quantiles
    at_eighth, at_median = np.interp([eighth, median], np.sort(losses), np.sort(quantiles))
    below *= at_median - at_eighth
    below = np.where(below > _FAR, _FAR + np.log1p(np.maximum(below - _FAR, 0.0)), below)
    return np.where(losses < median, at_median - below, quantiles)
