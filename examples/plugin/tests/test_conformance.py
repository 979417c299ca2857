"""What mlflow_hpo expects of every searcher, scheduler and launcher, and what these three do beyond that."""

import os

import pytest
from mlflow_hpo_example.launcher import ModestLauncher

from mlflow_hpo import ConfigError, Optimizer, SearchSpace
from mlflow_hpo.testing import Conformance, LauncherConformance


class TestEvolution(Conformance):
    searcher = {"name": "evolution", "step": 0.1}
    many = 300


class TestHalfway(Conformance):
    scheduler = "halfway"
    many = 300


class TestModest(LauncherConformance):
    launcher = "modest"


def test_evolution_gets_nearer():
    space = SearchSpace({"x": {"type": "float", "low": -1.0, "high": 1.0}})
    optimizer = Optimizer(
        space, mode="min", searcher="evolution", scheduler="full", max_resource=1, trials=100
    )
    while (job := optimizer.ask()) is not None:
        optimizer.report(job.trial_id, 1, job.config["x"] ** 2)
        optimizer.complete(job.trial_id)
    assert optimizer.best.value < 1e-3


def test_wrong_options_are_told():
    space = SearchSpace({"x": {"type": "float", "low": -1.0, "high": 1.0}})
    with pytest.raises(ConfigError, match=r"searcher\.step: must be "):
        Optimizer(space, mode="min", searcher={"name": "evolution", "step": 0}, max_resource=1)


def test_the_priority_is_the_lowest():
    def train(trial):
        trial.report(1, loss=float(os.getpriority(os.PRIO_PROCESS, 0)))

    with TestModest().session(train) as session:
        trial_id = session.submit(stop=1)
        session.to_end(trial_id)
        assert session.reports(trial_id)[0].metrics == {"loss": 19.0}
    assert isinstance(session.launcher, ModestLauncher)
