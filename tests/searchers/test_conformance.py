"""Every built-in searcher with every built-in scheduler."""

from __future__ import annotations

from itertools import product

import pytest

from mlflow_hpo.schedulers import SCHEDULERS
from mlflow_hpo.searchers import SEARCHERS
from mlflow_hpo.testing import Conformance

OPTIONS = {
    "grid": {"points": {"learning_rate": 6, "batch_size": 6, "beta": 6}},  # 1,116 configurations
    "gp": {"n_startup": 8},
}
FULL_SIZE = {"grid": {"points": {"learning_rate": 20, "batch_size": 20, "beta": 6}}}  # 12,400
MANY = {"random": 10_000, "sobol": 2000, "grid": 1000, "tpe": 200, "gp": 16, "optuna": 60, "freeze_thaw": 200}
# a proposal takes too long for as many as others have: gp 7 to 14 trials a study, 61 pending at once;
# optuna 12 to 24, 102 pending
SCALE = {"gp": 0.24, "optuna": 0.4, "freeze_thaw": 0.5}


def fits(searcher, scheduler):
    """Whether the scheduler can do with the searcher: that of learning curves asks their model."""
    return scheduler != "freeze_thaw" or searcher == "freeze_thaw"


@pytest.mark.parametrize(
    "engine",
    [pair for pair in product(SEARCHERS.names, SCHEDULERS.names) if fits(*pair)],
    indirect=True,
    ids=lambda engine: "-".join(engine),
)
class TestBuiltIn(Conformance):
    @pytest.fixture(autouse=True)
    def engine(self, request):
        searcher, self.scheduler = request.param
        full_size = request.config.getoption("--full-size")
        options = OPTIONS | FULL_SIZE if full_size else OPTIONS
        self.searcher = {"name": searcher, **options.get(searcher, {})}
        self.many = 10_000 if full_size else MANY.get(searcher, 200)
        self.scale = 1.0 if full_size else SCALE.get(searcher, 1.0)
