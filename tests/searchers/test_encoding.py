from __future__ import annotations

import numpy as np
from hypothesis import given, strategies

from mlflow_hpo.searchers.encoding import Encoding
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.testing import SPACE


@given(strategies.lists(strategies.floats(0, 1), min_size=len(SPACE), max_size=len(SPACE)))
def test_a_snapped_point_is_the_configuration_that_would_be_proposed(point):
    encoding = Encoding(SPACE)
    config = SPACE.from_unit(point)
    snapped, active = encoding.snap(np.array([point]))
    assert {name for name, on in zip(SPACE, active[0], strict=True) if on} == set(config)
    assert SPACE.from_unit(snapped[0].tolist()) == config
    again, same = encoding.snap(snapped)
    np.testing.assert_allclose(again, snapped, rtol=0, atol=1e-12)
    assert (same == active).all()
    np.testing.assert_allclose(encoding.point(SPACE.to_unit(config)), snapped[0], rtol=0, atol=1e-9)


def test_features():
    space = SearchSpace(
        {
            "optimizer": {"type": "categorical", "choices": ["adam", "sgd", None]},
            "momentum": {"type": "float", "low": 0, "high": 2, "when": {"optimizer": "sgd"}},
            "nesterov": {"type": "categorical", "choices": [True, False], "when": {"optimizer": "sgd"}},
            "layers": {"type": "int", "low": 1, "high": 4},
            "width": {"type": "int", "low": 1, "high": 2, "when": {"layers": [3, 4]}},
            "only": {"type": "categorical", "choices": ["one"]},
        }
    )
    encoding = Encoding(space)
    configs = [
        {"optimizer": "sgd", "momentum": 0.5, "nesterov": False, "layers": 4, "width": 1, "only": "one"},
        {"optimizer": "adam", "layers": 1, "only": "one"},
    ]
    points = np.array([encoding.point(space.to_unit(config)) for config in configs])
    assert encoding.features(*encoding.snap(points)).tolist() == [
        # optimizer, layers, momentum, nesterov, width in the order of the space; then the conditions
        [0, 1, 0, 0.25, 0, 1, 0.875, 0.25, 1, 1],
        [1, 0, 0, 0.5, 0, 0, 0.125, 0.5, 0, 0],
    ]  # fmt: skip
    assert encoding.categorical.tolist() == [name in ("optimizer", "nesterov", "only") for name in space]


def test_a_space_of_single_choices_has_one_feature_that_says_nothing():
    space = SearchSpace({"x": {"type": "categorical", "choices": [1]}})
    encoding = Encoding(space)
    assert encoding.features(*encoding.snap(np.array([[0.3], [0.9]]))).tolist() == [[0], [0]]
