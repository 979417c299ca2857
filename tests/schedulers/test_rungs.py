from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.schedulers import SCHEDULERS
from mlflow_hpo.schedulers.rungs import promotions, rung_levels


@pytest.mark.parametrize(
    ("low", "high", "eta", "levels"),
    [
        (1, 27, 3, (1, 3, 9, 27)),
        (1, 81, 3, (1, 3, 9, 27, 81)),
        (2, 16, 2, (2, 4, 8, 16)),
        (1, 100, 3, (1, 3, 9, 27, 81, 100)),
        (5, 12, 4, (5, 12)),
        (5, 5, 3, (5,)),
        (1, 10, 1.5, (1, 2, 3, 5, 8, 10)),
        (1, 4, 1.2, (1, 2, 3, 4)),
    ],
)
def test_levels(low, high, eta, levels):
    assert rung_levels(low, high, eta) == levels


@given(st.integers(1, 50), st.integers(0, 500), st.floats(1.05, 20))
def test_levels_ascend_by_about_eta_from_the_least_to_the_most(low, width, eta):
    levels = rung_levels(low, low + width, eta)
    assert (levels[0], levels[-1]) == (low, low + width)
    assert all(a < b for a, b in pairwise(levels))
    assert all(b <= math.ceil((a + 0.5) * eta + 0.5) for a, b in pairwise(levels))


def test_promotions_are_the_floor():
    assert [promotions(n, 3) for n in (0, 2, 3, 26, 27)] == [0, 0, 1, 8, 9]
    assert promotions(5, 2.5) == 2


@pytest.mark.parametrize("name", ["successive_halving", "hyperband", "asha", "asha_stopping"])
@pytest.mark.parametrize("eta", [1, 0.5, True, "3", math.nan, math.inf, None])
def test_a_wrong_eta_is_refused(name, eta):
    with pytest.raises(ConfigError, match=r"scheduler\.eta: must be a finite number above 1, got"):
        SCHEDULERS.create({"name": name, "eta": eta}, 1, 9)
