import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from mlflow_hpo.searchers.curve_model import CurveModel, Points


def some_points(count=30, features=3, seed=0):
    rng = np.random.default_rng(seed)
    heights = np.tile([0.0, 0.5, 1.0], count)[:count]
    return Points(rng.random((count, features)), heights, np.arange(count) // 3), rng


def test_the_gradient_is_that_of_the_objective():
    points, rng = some_points()
    losses = rng.standard_normal(len(points))
    model = CurveModel(3)
    theta = model._theta + 0.3 * rng.standard_normal(len(model._theta))
    numeric = approx_fprime(theta, lambda t: model._objective(t, points, losses)[0], 1e-6)
    assert model._objective(theta, points, losses)[1] == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_it_knows_what_it_was_told_and_is_unsure_far_away():
    points, _ = some_points()
    losses = np.sin(5 * points.features[:, 0]) - points.heights
    model = CurveModel(3)
    model.fit(points, losses)
    model.condition(points, losses)
    mean, deviation = model.predict(points)
    assert mean == pytest.approx(losses, abs=0.1)
    far = Points(np.full((1, 3), 9.0), np.array([9.0]), np.array([-1]))
    assert model.predict(far)[1][0] > 3 * deviation.max()


def test_a_fit_finds_out_which_feature_matters():
    points, _ = some_points(60)
    losses = np.sin(8 * points.features[:, 1])
    model = CurveModel(3)
    model.fit(points, losses)
    _, scales, *_ = model._parameters(model._theta)
    assert scales[1] < scales[0] / 3
    assert scales[1] < scales[2] / 3


def test_the_end_of_a_curve_is_foretold_by_its_beginning_and_by_other_curves():
    rng = np.random.default_rng(0)
    x = rng.random((20, 1))
    levels = np.array([0.0, 0.5, 1.0])

    def loss(x, height):
        return 2 * np.abs(x - 0.4) + 1 - height

    whole = Points(np.repeat(x, 3, axis=0), np.tile(levels, 20), np.repeat(np.arange(20), 3))
    begun = Points(np.array([[0.41]]), np.array([0.0]), np.array([20]))
    seen = whole + begun
    losses = loss(seen.features[:, 0], seen.heights)
    model = CurveModel(1)
    model.fit(seen, losses)
    model.condition(seen, losses)
    mean, deviation = model.predict(Points(begun.features, np.array([1.0]), begun.curves))
    assert mean[0] == pytest.approx(loss(0.41, 1.0), abs=0.1)
    assert deviation[0] < 0.2


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), copies=st.integers(1, 4))
def test_copies_and_constant_losses_do_not_break_it(seed, copies):
    points, rng = some_points(6, 2, seed)
    for _ in range(copies):
        points = points + points
    model = CurveModel(2)
    for losses in (np.zeros(len(points)), rng.standard_normal(len(points))):
        model.fit(points, losses)
        model.condition(points, losses)
        mean, deviation = model.predict(points)
        assert np.isfinite(mean).all()
        assert (deviation > 0).all()
