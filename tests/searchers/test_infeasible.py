"""Searchers that learn keep away from where trials are infeasible."""

import pytest

from mlflow_hpo.optimizer import Optimizer
from mlflow_hpo.space import SearchSpace

SPACE = SearchSpace({name: {"type": "float", "low": -1, "high": 1} for name in "xy"})


def infeasible(searcher, trials, *, told):
    """Return the share of infeasible trials in the second half of some searches; the best loss is there."""
    share = 0.0
    for seed in range(2):
        engine = Optimizer(SPACE, mode="min", searcher=searcher, scheduler="full", trials=trials, seed=seed)
        while (job := engine.ask()) is not None:
            x, y = job.config["x"], job.config["y"]
            feasible = x <= -0.4
            engine.report(job.trial_id, 1, (x - 0.5) ** 2 + y**2, feasible=feasible or not told)
            engine.complete(job.trial_id)
            share += (not feasible) * (2 * job.trial_id >= trials) / trials
    return share


@pytest.mark.parametrize(
    ("searcher", "trials"), [({"name": "tpe", "n_startup": 10}, 100), ("gp", 40), ("optuna", 100)]
)
def test_keeps_away_once_it_is_told(searcher, trials):
    assert infeasible(searcher, trials, told=True) < 0.55
    assert infeasible(searcher, trials, told=False) > 0.85
