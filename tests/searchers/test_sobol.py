from __future__ import annotations

import pytest
from scipy.stats import qmc

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.searchers import SEARCHERS
from mlflow_hpo.searchers.random import RandomSearcher
from mlflow_hpo.searchers.sobol import SobolSearcher
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.testing import SPACE


def cube(dimensions):
    return SearchSpace({f"x{i}": {"type": "float", "low": 0, "high": 1} for i in range(dimensions)})


def points(searcher, count):
    return [list(searcher.suggest(trial).values()) for trial in range(count)]


def test_every_power_of_two_falls_once_into_each_share_of_each_axis():
    drawn = points(SobolSearcher(cube(5), 3, (9,)), 64)
    for axis in zip(*drawn, strict=True):
        assert sorted(int(64 * x) for x in axis) == list(range(64))


def test_covers_the_space_more_evenly_than_random_draws():
    sobol, random = (points(made(cube(3), 0, (9,)), 100) for made in (SobolSearcher, RandomSearcher))
    assert qmc.discrepancy(sobol) < qmc.discrepancy(random) / 5


def test_the_seed_scrambles():
    def proposals(seed):
        searcher = SobolSearcher(SPACE, seed, (9,))
        return [searcher.suggest(trial) for trial in range(20)]

    assert proposals(0) == proposals(0)
    assert proposals(0) != proposals(1)


def test_a_space_with_too_many_parameters_is_refused():
    with pytest.raises(ConfigError, match=r"^searcher: sobol takes at most 21201 parameters, got 21202$"):
        SEARCHERS.create("sobol", cube(21_202), 0, (9,))
