from __future__ import annotations

from mlflow_hpo.searchers.random import RandomSearcher
from mlflow_hpo.testing import SPACE


def test_a_proposal_depends_on_the_seed_and_the_trial_alone():
    searcher = RandomSearcher(SPACE, 7, (9,))
    forwards = [searcher.suggest(trial) for trial in range(20)]
    assert [searcher.suggest(trial) for trial in reversed(range(20))] == forwards[::-1]
    assert [RandomSearcher(SPACE, 8, (9,)).suggest(trial) for trial in range(20)] != forwards
    assert len({config["learning_rate"] for config in forwards}) == 20
