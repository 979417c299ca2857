"""Freeze-thaw Bayesian optimisation: a model of the learning curves proposes, and says what goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from mlflow_hpo.checks import whole_number
from mlflow_hpo.searchers.base import Searcher
from mlflow_hpo.searchers.curve_search import CurveSearch
from mlflow_hpo.searchers.prior import Prior
from mlflow_hpo.space import Config, SearchSpace

_CANDIDATES = 100  # so many of the best paused trials of each level are thought of
_ALONE = 5  # full trainings before a search that knows nothing of earlier tasks begins


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

    With a `Prior` the model begins with what earlier tasks lead to expect, and what was good there competes,
    too; of the first `n_startup` every other one is such a configuration. After `t` full trainings these
    expectations count ``1 / (1 + (t / 5)**2)``: they fade, but how the losses depend on those of the earlier
    tasks goes on being learnt. After 5 full trainings a second search begins, which knows neither of the
    earlier tasks nor of the trials of the first one, and takes half of the epochs from then on: it finds what
    lies far from all that was good before.

    Args:
        n_startup: configurations before the model proposes.

    Source: Swersky et al., Freeze-Thaw Bayesian Optimization, 2014; random horizon and threshold as in
    Rakotoarison et al., In-Context Freeze-Thaw Bayesian Optimization, ICML 2024, section 4.2; pending trials
    as in Ginsbourger et al., Kriging Is Well-Suited to Parallelize Optimization, 2010.
    """

    def __init__(self, space: SearchSpace, seed: int, levels: Sequence[int], *, n_startup: Any = 6) -> None:
        self.space = space
        self._seed = seed
        self._levels = tuple(levels)
        self._n_startup = whole_number("n_startup", n_startup, at_least=1)
        self._searches = [CurveSearch(space, seed, self._levels, self._n_startup)]
        self._owners: dict[int, CurveSearch] = {}  # by trial
        self._advised: CurveSearch | None = None  # the search that is to start a new trial

    def expect(self, prior: Prior) -> Sequence[Config]:
        """Begin with what earlier tasks lead to expect; nothing must be tried first."""
        informed = CurveSearch(self.space, self._seed, self._levels, self._n_startup, prior)
        blank = CurveSearch(self.space, self._seed + 1, self._levels, self._n_startup)
        self._searches = [informed, blank]
        return []

    def advise(self, paused: Mapping[int, Sequence[tuple[float, int]]], *, may_start: bool) -> int | None:
        """Return which paused trial should go on, or None for a new one."""
        for search in self._in_turn():
            own = [
                trial
                for waiting in paused.values()
                for trial in islice(self._own(search, waiting), _CANDIDATES)
            ]
            if own or may_start:
                chosen = search.advise(own, may_start=may_start)
                self._advised = search if chosen is None else None
                return chosen
        raise ValueError("paused: must not be empty where no new trial may start")

    def _own(self, search: CurveSearch, waiting: Iterable[tuple[float, int]]) -> Iterable[int]:
        """Return those of the waiting trials that belong to a search."""
        trials = (trial for _, trial in waiting)
        if len(self._searches) == 1:
            return trials
        return (trial for trial in trials if self._owners[trial] is search)

    def suggest(self, trial_id: int) -> Config:
        """Propose what `advise` found, or what promises most now."""
        search = self._advised or self._in_turn()[0]
        self._advised = None
        self._owners[trial_id] = search
        return search.suggest(trial_id)

    def adopt(self, trial_id: int, config: Config) -> None:
        """Count the trial as pending."""
        owner = self._owners.setdefault(trial_id, self._searches[0])
        owner.adopt(trial_id, config)

    def report(self, trial_id: int, resource: int, loss: float) -> None:
        """Learn from the loss if the trial stands at its next level."""
        self._owners[trial_id].report(trial_id, resource, loss)

    def complete(self, trial_id: int) -> None:
        """Count the trial as no longer pending."""
        self._owners[trial_id].complete(trial_id)

    def fail(self, trial_id: int) -> None:
        """Count a trial that never reached a level as the worst."""
        self._owners[trial_id].fail(trial_id)

    def _in_turn(self) -> list[CurveSearch]:
        """Return the searches, first the one that is to train next."""
        if len(self._searches) == 1:
            return self._searches
        informed, blank = self._searches
        behind = blank.trained < informed.trained - _ALONE * self._levels[-1]
        return [blank, informed] if behind else [informed, blank]
