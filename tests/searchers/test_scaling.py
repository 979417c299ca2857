"""Losses on a scale that a Gaussian process can take."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_hpo.searchers.scaling import scaled


def test_good_losses_keep_their_proportions_and_bad_ones_their_order_only():
    losses = np.concatenate([np.linspace(0, 1, 21), np.linspace(1.1, 2, 20)])
    numbers = scaled(losses)
    steps = np.diff(numbers[:21])
    assert steps == pytest.approx(steps[0])
    assert scaled(np.where(losses > 1, losses**99, losses)) == pytest.approx(numbers)
    infinite = scaled(np.append(losses, [np.inf, np.inf]))
    assert infinite[-1] == infinite[-2] > infinite[:-2].max()


@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=True).filter(lambda loss: loss != -math.inf), min_size=1
    )
)
def test_any_losses_are_scaled_in_their_order_and_within_bounds(losses):
    losses = np.array(losses)
    numbers = scaled(losses)
    assert np.isfinite(numbers).all()
    assert (np.diff(numbers[np.argsort(losses, kind="stable")]) >= 0).all()
    assert np.abs(numbers).max() < 1000
