"""Freeze-thaw Bayesian optimisation: a model of the learning curves proposes, and says what goes on."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from scipy.special import log_ndtr

from mlflow_hpo.checks import whole_number
from mlflow_hpo.searchers.base import Searcher
from mlflow_hpo.searchers.belief import Belief, Places
from mlflow_hpo.searchers.encoding import Array, Encoding
from mlflow_hpo.searchers.prior import Prior
from mlflow_hpo.searchers.sobol import SobolSearcher
from mlflow_hpo.searchers.threads import one_thread
from mlflow_hpo.space import Config, SearchSpace

_BEST = 200  # the model sees that many losses of the best trials, ...
_LATEST = 100  # ... that many of the latest others, ...
_FAILED = 30  # ... that many of the latest trials without any, ...
_PENDING = 100  # ... and that many of the latest pending ones, so that its cost stays bounded

_DRAWN = 400  # candidates from the prior
_PARENTS, _CHILDREN = 8, 12  # and around each of the best trials
_SPREADS = (0.15, 0.05)  # with these standard deviations
_REFINED, _VARIATIONS = 5, 20  # then around each of the most promising candidates
_REFINEMENTS = (0.3, 0.2, 0.1, 0.05, 0.03)  # round by round, with these
_MOST_AT_ONCE, _PENDING_FOR_ONE_MORE = 16, 20  # choices by one look at the model
_NEW = -1  # the curve of a trial that does not exist so far

_Choice = tuple[int | None, Array | None]  # a paused trial, or the point of a new one
_IMPROVEMENTS = (-2.0, 0.0)  # powers of 10 of the improvement hoped for
_LEAPS = (-0.5, 0.0)  # the same while there is a history: it serves for a short time only
_LEAST_SPREAD = 0.5  # of the losses above the best, where all seen so far are about as good
_FADE = 5.0  # full trainings after which the prior would count half
_INFORMED = 2.0  # full trainings after which it is forgotten at the latest
_FEW = 4  # losses that say something about a history
_CLEARLY = 0.3  # correlation with it from which on they are enough before the model proposes
_THOUGHT_OF = 100  # so many of the best paused trials of each level are thought of


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
    all, in rounds of ever smaller ones. The first `n_startup` are the centre of the space and a Sobol
    sequence. With another scheduler only new ones compete.

    With a `Prior` the model begins with what earlier tasks lead to expect, and what was good there competes,
    too; of the first `n_startup` every other one is such a configuration. After `t` full trainings these
    expectations count ``1 / (1 + (t / 5)**2)``. As they serve for a short time only, large improvements are
    hoped for, with `u` from -0.5 to 0. After 1 full training, as soon as one trial is fully trained, or after
    2 they are forgotten, and so are all trials that they brought about: the search goes on as the one that
    never had a history, and finds what lies far from all that was good before.

    When the first four have reached the first level, or failed, their losses there are compared with what
    the earlier tasks lead to expect. If they clearly agree (the weighted mean of Spearman's correlations is
    above 0.3), the model is asked at once, and the others of the first `n_startup` wait until the history is
    forgotten. If all of them do not agree at all (it is not above 0), the history misleads, and is forgotten
    at once.

    Args:
        n_startup: configurations before the model proposes.

    Attributes:
        given_up: trials that a history brought about which is forgotten.

    Source: Swersky et al., Freeze-Thaw Bayesian Optimization, 2014; random horizon and threshold as in
    Rakotoarison et al., In-Context Freeze-Thaw Bayesian Optimization, ICML 2024, section 4.2; pending trials
    as in Ginsbourger et al., Kriging Is Well-Suited to Parallelize Optimization, 2010.
    """

    def __init__(self, space: SearchSpace, seed: int, levels: Sequence[int], *, n_startup: Any = 6) -> None:
        self.space = space
        self._levels = tuple(levels)
        self._n_startup = whole_number("n_startup", n_startup, at_least=1)
        self._unasked: set[int] = set()  # trials that were begun without asking the model
        self._rest_waits = True  # the others of them until the history is forgotten
        self._spread = 0  # configurations that were spread evenly
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._sobol = SobolSearcher(space, seed, levels)
        self._encoding = Encoding(space)
        self._width = self._features(np.full((1, len(space)), 0.5)).shape[1]
        self._points: dict[int, Array] = {}  # each trial's place in the unit cube
        self._tried: set[bytes] = set()
        self._pending: dict[int, None] = {}  # trials with a job, in the order of their beginning
        self._reached: dict[int, int] = {}  # how many levels each trial reached
        self._trained = 0  # epochs, up to the levels
        self._at_level: dict[tuple[int, int], float] = {}  # losses by trial and level
        self._ranked: list[tuple[float, int]] = []  # (loss, trial) at every level, ascending
        self._barren: dict[int, None] = {}  # trials that ended before the first level
        self._failed: set[int] = set()
        self._queue: deque[_Choice] = deque()  # choices that were made at once and not used so far
        self._proposal: _Choice | None = None  # the new configuration that `advise` found
        self._belief = Belief(self._width, self._levels)
        self._informed = False  # whether the belief has a prior
        self._candidates: dict[bytes, Config] = {}  # what was good on earlier tasks, by its place
        self._taught: set[int] = set()  # trials that the history brought about
        self.given_up: set[int] = set()

    def expect(self, prior: Prior) -> Sequence[Config]:
        """Begin with what earlier tasks lead to expect; nothing must be tried first."""
        self._belief = Belief(self._width, self._levels, prior)
        self._informed = True
        self._candidates = self._placed(prior.configs)
        return []

    def advise(self, paused: Mapping[int, Sequence[tuple[float, int]]], *, may_start: bool) -> int | None:
        """Return which paused trial should go on, or None for a new one."""
        best = chain.from_iterable(islice(waiting, _THOUGHT_OF) for waiting in paused.values())
        choice = self._next_choice([trial for _, trial in best], may_start=may_start)
        trial_id, _ = choice
        if trial_id is None:
            self._proposal = choice
        else:
            self._proposal = None
            self._pending[trial_id] = None
        return trial_id

    def suggest(self, trial_id: int) -> Config:
        """Propose what `advise` found, or what promises most now."""
        _, point = self._proposal or self._next_choice([], may_start=True)
        self._proposal = None
        if point is None:
            config = self._startup_config()
        else:
            config = self._candidates.get(point.tobytes()) or self.space.from_unit(point.tolist())
            if self._informed:
                self._taught.add(trial_id)
        self.adopt(trial_id, config)
        return config

    def adopt(self, trial_id: int, config: Config) -> None:
        """Count the trial as pending."""
        point = self._encoding.point(self.space.to_unit(config))
        place = self._encoding.snap(point[None])[0].tobytes()
        if not self._asks_model:
            self._unasked.add(trial_id)
        if place in self._candidates:
            self._taught.add(trial_id)
        self._points[trial_id] = point
        self._tried.add(place)
        self._pending[trial_id] = None
        self._reached[trial_id] = 0

    def report(self, trial_id: int, resource: int, loss: float) -> None:
        """Learn from the loss if the trial stands at its next level."""
        if trial_id in self.given_up:
            return
        level = self._reached[trial_id]
        if level < len(self._levels) and resource >= self._levels[level]:
            self._trained += self._levels[level] - (self._levels[level - 1] if level else 0)
            self._reached[trial_id] += 1
            self._at_level[trial_id, level] = loss
            insort(self._ranked, (loss, trial_id))
            if self._informed and self._has_served:
                self._forget()
            elif level == 0:
                self._compare_with_history(trial_id)

    def complete(self, trial_id: int) -> None:
        """Count the trial as no longer pending."""
        self._pending.pop(trial_id, None)
        if self._reached[trial_id] == 0 and trial_id not in self.given_up:
            self._barren[trial_id] = None

    def fail(self, trial_id: int) -> None:
        """Count a trial that never reached a level as the worst."""
        self.complete(trial_id)
        self._failed.add(trial_id)
        self._compare_with_history(trial_id)

    @property
    def _has_served(self) -> bool:
        """Whether the history has brought what it is best for, a good configuration soon."""
        # where the first level lies late, what the first trials take to it
        trainings = self._trained / max(self._levels[-1], self._n_startup * self._levels[0])
        whole = any(reached == len(self._levels) for reached in self._reached.values())
        return trainings >= _INFORMED or (trainings >= 1 and whole)

    def _compare_with_history(self, latest: int) -> None:
        """See whether the first losses, of `latest` too, rank as earlier tasks lead to expect.

        Those of trials that the model proposed lie close together, where ranks say little. Trials that failed
        before they had any rank last.
        """
        if not self._informed or latest not in self._unasked:
            return
        keys = [key for key in self._at_level if key[1] == 0 and key[0] in self._unasked]
        keys += [(trial, 0) for trial in self._barren if trial in self._unasked and trial in self._failed]
        if len(keys) < _FEW or len(keys) not in (_FEW, self._n_startup):
            return
        losses = np.array([self._at_level.get(key, math.inf) for key in keys])
        with one_thread():
            agreement = self._belief.agreement(self._places(keys), losses)
        self._rest_waits = agreement > _CLEARLY
        if len(keys) == self._n_startup and agreement <= 0:
            self.misled = True
            self._forget()

    def _forget(self) -> None:
        """Go on as the search that never had a history."""
        self._belief = Belief(self._width, self._levels)
        self._informed = False
        self._candidates.clear()
        self._queue.clear()
        self.given_up |= self._taught
        self._unasked -= self._taught
        self._ranked = [pair for pair in self._ranked if pair[1] not in self.given_up]
        self._at_level = {key: loss for key, loss in self._at_level.items() if key[0] not in self.given_up}
        for trial in self._taught:
            self._barren.pop(trial, None)
            self._pending.pop(trial, None)
        self._rng = np.random.default_rng(self._seed)

    def _placed(self, configs: Sequence[Config]) -> dict[bytes, Config]:
        points = [self._encoding.point(self.space.to_unit(config)) for config in configs]
        snapped, _ = self._encoding.snap(np.array(points).reshape(-1, len(self.space)))
        placed: dict[bytes, Config] = {}
        for point, config in zip(snapped, configs, strict=True):
            placed.setdefault(point.tobytes(), config)
        return placed

    @staticmethod
    def _fits(choice: int | None, paused: Container[int], *, may_start: bool) -> bool:
        """Whether what was chosen before is still to be had."""
        return may_start if choice is None else choice in paused

    def _next_choice(self, paused: Sequence[int], *, may_start: bool) -> _Choice:
        """Return what promises most; without a point where a new trial is begun without the model."""
        while self._queue and not self._fits(self._queue[0][0], paused, may_start=may_start):
            self._queue.popleft()
        if not self._queue:
            self._queue.extend(self._choices(paused, may_start=may_start))
        return self._queue.popleft()

    def _choices(self, paused: Sequence[int], *, may_start: bool) -> list[_Choice]:
        """Return what promises most: paused trials, or the points of new ones.

        With many workers the model is asked for several choices at once, as it changes little in between.
        """
        if may_start and not self._asks_model:
            return [(None, None)]
        with one_thread():
            return self._promising(paused, may_start=may_start)

    @property
    def _asks_model(self) -> bool:
        """Whether a new trial is to be what the model proposes."""
        waits = self._informed and self._rest_waits
        startup = min(self._n_startup, _FEW) if waits else self._n_startup
        return len(self._unasked) >= startup and len(self._at_level) + len(self._barren) >= 2

    @property
    def _trust(self) -> float:
        """How much the prior counts."""
        return 1 / (1 + (self._trained / self._levels[-1] / _FADE) ** 2)

    def _startup_config(self) -> Config:
        """Return what was good on earlier tasks and was not tried, for every other trial; else any other."""
        if len(self._unasked) % 2 == 0:
            for key, config in self._candidates.items():
                if key not in self._tried:
                    return config
        return self._evenly_spread()

    def _evenly_spread(self) -> Config:
        """Return the centre of the space first, then points of a Sobol sequence."""
        self._spread += 1
        if self._spread == 1:
            return self.space.from_unit([0.5] * len(self.space))
        return self._sobol.suggest(self._spread - 1)

    def _promising(self, paused: Sequence[int], *, may_start: bool) -> list[_Choice]:
        losses = self._teach()
        best = losses.min()
        spread = max(np.median(losses) - best, _LEAST_SPREAD)
        improvements = _LEAPS if self._informed else _IMPROVEMENTS
        hoped_for = spread * 10 ** self._rng.uniform(*improvements, size=self._at_once)
        horizon = float(self._rng.uniform(1, self._levels[-1]))

        def outlook(features: Array, curves: Sequence[int], levels: Sequence[int]) -> tuple[Array, Array]:
            """Return the mean and standard deviation of the losses at the horizon."""
            begins = [self._levels[level - 1] if level else 0 for level in levels]
            ends = [
                min(max(begin + horizon, self._levels[level]), self._levels[-1])
                for begin, level in zip(begins, levels, strict=True)
            ]
            return self._belief.outlook(Places(features, ends, curves))

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
                self._drawn(), best - hoped_for[0], outlook_of_new
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

    def _drawn(self) -> Array:
        """Return draws from the space, half of them closer together where the losses change most.

        After them comes what was good on earlier tasks.
        """
        drawn = self._rng.random((_DRAWN, len(self.space)))
        half = drawn[: _DRAWN // 2]
        evenly = self._features(half)
        evenly[:, self._encoding.columns] = half[:, ~self._encoding.categorical]
        half[:, ~self._encoding.categorical] = self._belief.unwarped(evenly)[:, self._encoding.columns]
        return np.concatenate([drawn, *(np.frombuffer(key)[None] for key in self._candidates)])

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

    def _teach(self) -> Array:
        """Teach a model the losses so far, and return them on its scale."""
        trials = dict.fromkeys(trial for _, trial in islice(self._ranked, _BEST))
        best = [(trial, level) for trial in trials for level in range(self._reached[trial])][:_BEST]
        latest = islice((key for key in reversed(self._at_level) if key[0] not in trials), _LATEST)
        keys = [*best, *latest, *((trial, 0) for trial in islice(reversed(self._barren), _FAILED))]
        keys.sort()
        losses = np.array([self._at_level.get(key, math.inf) for key in keys])
        pending = [
            trial
            for trial in islice(reversed(self._pending), _PENDING)
            if self._reached[trial] < len(self._levels)
        ]
        waiting = [(trial, self._reached[trial]) for trial in pending]
        known = len(self._at_level) + len(self._barren)
        return self._belief.learn(
            self._places(keys),
            losses,
            self._places(waiting) if waiting else None,
            known=known,
            trust=self._trust,
        )

    def _places(self, keys: Sequence[tuple[int, int]]) -> Places:
        """Return where on their curves some trials are at some levels."""
        features = self._features(np.array([self._points[trial] for trial, _ in keys]))
        return Places(features, [self._levels[level] for _, level in keys], [trial for trial, _ in keys])

    def _features(self, points: Array) -> Array:
        return self._encoding.features(*self._encoding.snap(points))
