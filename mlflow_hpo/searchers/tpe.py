"""TPE by Hyperopt; everything that must be known of Hyperopt stands in this module."""

from __future__ import annotations

import functools
import math
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from mlflow_hpo.checks import finite_number, whole_number
from mlflow_hpo.searchers.base import Searcher
from mlflow_hpo.space import CategoricalParameter, Config, SearchSpace

_MOST_GOOD = 25  # Hyperopt takes no more trials for good
_OBSERVED = 250  # a suggestion looks at the good trials, that many of the latest others ...
_PENDING = 250  # ... and that many of the latest pending ones, so that its cost stays bounded


class TpeSearcher(Searcher):
    """Tree-structured Parzen estimator: Hyperopt's `tpe.suggest`, for many workers and early stopping.

    TPE splits the trials into a few good ones and the rest, models where each group lies, and proposes the
    candidate that is likeliest good. The good ones are the best by their loss at exactly one of `levels`: the
    highest at which enough trials have a finite loss, as BOHB does. Unlike there all other trials count as
    bad: those stopped before that level, failed ones, infinite losses, and pending ones, which keeps a batch
    of proposals apart. Until a level has enough, proposals are random.

    Enough is `n_startup`, and at least one more than the space has parameters.

    Args:
        n_startup: trials with a finite loss that are wanted before the model proposes.
        n_ei_candidates: draws from the model of the good trials, of which the best is proposed.
        gamma: of `n` trials that are no longer pending ``ceil(gamma * sqrt(n))`` are good, but 25 at most,
            and at most half of those at the level.

    Source: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NIPS 2011; levels as in Falkner et
    al., BOHB, ICML 2018, section 3.2.
    """

    memoryless = True

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        levels: Sequence[int],
        *,
        n_startup: Any = 20,
        n_ei_candidates: Any = 24,
        gamma: Any = 0.25,
    ) -> None:
        self.space = space
        self._seed = seed
        self._enough = max(whole_number("n_startup", n_startup, at_least=0), len(space) + 1)
        self._n_ei_candidates = whole_number("n_ei_candidates", n_ei_candidates, at_least=1)
        self._gamma = finite_number("gamma", gamma, above=0)
        # at each level (loss, trial) of those with a finite loss, ascending
        self._finite: dict[int, list[tuple[float, int]]] = {level: [] for level in levels}
        self._miscs: dict[int, dict[str, Any]] = {}  # each trial's configuration as Hyperopt writes it
        self._pending: dict[int, None] = {}  # sets that keep their order
        self._observed: dict[int, None] = {}

    def suggest(self, trial_id: int) -> Config:
        """Propose what the model finds likeliest good, or a random configuration while there is no model."""
        ranked = next((r for r in reversed(self._finite.values()) if len(r) >= self._enough), None)
        if ranked is None:
            config = self.space.sample(np.random.default_rng((self._seed, trial_id)))
        else:
            config = self._propose(trial_id, ranked)
        self.adopt(trial_id, config)
        return config

    def adopt(self, trial_id: int, config: Config) -> None:
        """Count the trial as pending."""
        places = self.space.to_unit(config)
        self._miscs[trial_id] = {
            "tid": trial_id,
            "idxs": {name: [trial_id] if name in places else [] for name in self.space},
            "vals": {
                name: [self._write(name, places[name])] if name in places else [] for name in self.space
            },
        }
        self._pending[trial_id] = None

    def report(self, trial_id: int, resource: int, loss: float) -> None:
        """Learn from the loss if the trial stands at one of the levels."""
        if resource in self._finite:
            self._observe(trial_id)
            if loss < math.inf:
                insort(self._finite[resource], (loss, trial_id))

    def complete(self, trial_id: int) -> None:
        """Count a trial that brought no loss at any level as bad."""
        self._observe(trial_id)

    def fail(self, trial_id: int) -> None:
        """Count the trial as bad, unless what it brought before is good."""
        self._observe(trial_id)

    def _observe(self, trial_id: int) -> None:
        if trial_id in self._pending:
            del self._pending[trial_id]
            self._observed[trial_id] = None

    def _propose(self, trial_id: int, ranked: Sequence[tuple[float, int]]) -> Config:
        from hyperopt import tpe
        from hyperopt.base import trials_from_docs

        n_good = min(math.ceil(self._gamma * math.sqrt(len(self._observed))), _MOST_GOOD, len(ranked) // 2)
        good = {trial for _, trial in ranked[:n_good]}
        latest = {*islice(reversed(self._observed), _OBSERVED), *islice(reversed(self._pending), _PENDING)}
        docs = [*self._docs(good, loss=0.0), *self._docs(latest - good, loss=1.0)]
        # Hyperopt reads nothing but the split from the losses, but would take how many are good from the
        # number of all, pending ones included: make its ceil(gamma * sqrt(n)) give ours
        gamma = (n_good - 0.5) / math.sqrt(len(docs))
        (proposal,) = tpe.suggest(
            [trial_id],  # of several ids Hyperopt would answer the first only
            self._domain,
            trials_from_docs(docs, validate=False),
            (self._seed, trial_id),
            n_startup_jobs=0,
            n_EI_candidates=self._n_ei_candidates,
            gamma=gamma,
            verbose=False,
        )
        vals = proposal["misc"]["vals"]
        return self.space.from_unit([self._read(name, vals[name][0]) for name in self.space])

    def _docs(self, trials: Iterable[int], loss: float) -> Iterator[dict[str, Any]]:
        for trial_id in trials:
            result = {"status": "ok", "loss": loss}
            yield {"tid": trial_id, "state": 2, "result": result, "misc": self._miscs[trial_id]}

    @functools.cached_property
    def _domain(self) -> Any:
        """The space as Hyperopt sees it: each parameter on the unit interval or some choices, no conditions.

        TPE models each parameter by itself, from the trials in which it was active. Conditions therefore only
        decide which of the proposed values are used, which the space itself does; Hyperopt's own ones are
        nested choices, which cannot say what ours can.
        """
        from hyperopt import hp
        from hyperopt.base import Domain

        labels = {
            name: hp.randint(name, len(parameter.choices))
            if isinstance(parameter, CategoricalParameter)
            else hp.uniform(name, 0.0, 1.0)
            for name, parameter in self.space.items()
        }
        return Domain(None, labels)

    def _write(self, name: str, place: float) -> float | int:
        parameter = self.space[name]
        return int(place * len(parameter.choices)) if isinstance(parameter, CategoricalParameter) else place

    def _read(self, name: str, value: Any) -> float:
        parameter = self.space[name]
        if isinstance(parameter, CategoricalParameter):
            return (int(value) + 0.5) / len(parameter.choices)
        return float(value)
