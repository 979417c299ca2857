"""Schedulers with options that the tests of every searcher with every scheduler leave out."""

from __future__ import annotations

import math

import pytest

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.optimizer import Optimizer
from mlflow_hpo.schedulers import SCHEDULERS
from mlflow_hpo.testing import SPACE, Conformance, drive


def searcher_for(scheduler):
    """Return a cheap searcher that the scheduler can do with."""
    return "freeze_thaw" if scheduler == "freeze_thaw" else "random"


@pytest.mark.parametrize("name", ["asha", "asha_stopping"])
class TestAshaInBrackets(Conformance):
    @pytest.fixture(autouse=True)
    def engine(self, name):
        self.scheduler = {"name": name, "brackets": 3}

    def test_one_resource_only(self):
        with pytest.raises(ConfigError, match="at most 1, the number of rungs, got 3"):
            self.optimizer(30, min_resource=5, max_resource=5)


@pytest.mark.parametrize("name", SCHEDULERS.names)
class TestWithEarlyStopping(Conformance):
    @pytest.fixture(autouse=True)
    def engine(self, name):
        self.scheduler = name
        self.searcher = searcher_for(name)
        self.many = 1000 if self.searcher == "random" else 200

    def optimizer(self, trials, **changes):
        early = {"patience": 3, "min_delta": 0.02, "divergence": 50}
        return super().optimizer(trials, early_stopping=early, **changes)

    def test_one_resource_only(self):
        drive(self.optimizer(30, min_resource=5, max_resource=5), odd_values=0.2)


@pytest.mark.parametrize("name", SCHEDULERS.names)
def test_a_goal_ends_the_search_with_every_scheduler(name):
    optimizer = Optimizer(
        SPACE, mode="min", searcher=searcher_for(name), scheduler=name, max_resource=9, goal=0.7
    )
    jobs = drive(optimizer, workers=8, failures=0.1, odd_values=0.1)
    assert optimizer.goal_reached
    assert optimizer.best.value <= 0.7
    assert len(jobs) < 1000
    assert not math.isnan(optimizer.best.value)
