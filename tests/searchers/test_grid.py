from __future__ import annotations

from itertools import product

import pytest

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.optimizer import Optimizer
from mlflow_hpo.searchers import SEARCHERS
from mlflow_hpo.searchers.grid import MAX_SIZE, GridSearcher
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.testing import SPACE, drive

TREE = SearchSpace(
    {
        "optimizer": {"type": "categorical", "choices": ["adam", "sgd", "rmsprop"]},
        "layers": {"type": "int", "low": 1, "high": 3},
        "momentum": {"type": "float", "low": 0.1, "high": 0.9, "step": 0.4, "when": {"optimizer": "sgd"}},
        "nesterov": {"type": "categorical", "choices": [True, False], "when": {"momentum": [0.5, 0.9]}},
        "width": {
            "type": "int", "low": 8, "high": 32, "step": 8, "when": {"layers": [2, 3], "optimizer": "adam"}
        },
    }
)  # fmt: skip


def line(**changes):
    return SearchSpace({"x": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True} | changes})


def everything(searcher):
    configs = []
    while not searcher.exhausted:
        configs.append(searcher.suggest(len(configs)))
    return configs


def key(config):
    return tuple(config.items())


def test_every_configuration_of_a_conditional_space_once():
    searcher = GridSearcher(TREE, 0, (9,))
    sgd = [
        {"momentum": 0.1},
        *({"momentum": m, "nesterov": n} for m, n in product((0.5, 0.9), (True, False))),
    ]
    expected = [
        *({"optimizer": "sgd", "layers": layers, **more} for layers in (1, 2, 3) for more in sgd),
        *({"optimizer": "rmsprop", "layers": layers} for layers in (1, 2, 3)),
        {"optimizer": "adam", "layers": 1},
        *({"optimizer": "adam", "layers": n, "width": w} for n, w in product((2, 3), (8, 16, 24, 32))),
    ]
    assert searcher.size == len(expected) == 27
    configs = everything(searcher)
    assert sorted(map(str, configs)) == sorted(map(str, expected))
    assert all(list(TREE.validate(config).items()) == list(config.items()) for config in configs)
    with pytest.raises(ValueError, match="exhausted"):
        searcher.suggest(27)


def test_the_seed_shuffles_so_that_every_beginning_covers_all_values():
    first = everything(GridSearcher(TREE, 0, (9,)))
    assert everything(GridSearcher(TREE, 0, (9,))) == first
    assert everything(GridSearcher(TREE, 1, (9,))) != first
    start = first[:9]
    assert {config["optimizer"] for config in start} == {"adam", "sgd", "rmsprop"}
    assert {config["layers"] for config in start} == {1, 2, 3}


@pytest.mark.parametrize(
    ("space", "points", "values"),
    [
        (line(), 4, [1e-4, 1e-3, 1e-2, 1e-1]),
        (line(), {"x": 2}, [1e-4, 1e-1]),
        (line(), 1, [10**-2.5]),
        (line(log=False, low=-1, high=1), 5, [-1, -0.5, 0, 0.5, 1]),
        (line(log=False, low=0.1, high=0.7, step=0.2), None, [0.1, 0.3, 0.5, 0.7]),
        (line(log=False, low=0.1, high=0.7, step=0.2), 2, [0.1, 0.3, 0.5, 0.7]),  # not continuous
        (line(log=False, low=0.1, high=0.7, step=0.2), {"x": 2}, [0.1, 0.7]),
        (line(log=False, low=0.1, high=0.7, step=0.2), {"x": 99}, [0.1, 0.3, 0.5, 0.7]),
        (line(type="int", low=16, high=512), {"x": 3}, [16, 89, 512]),
        (line(type="int", low=1, high=4), {"x": 3}, [1, 2, 4]),
        (line(type="int", low=1, high=2), 7, [1, 2]),
    ],
)
def test_values_of_a_number(space, points, values):
    searcher = GridSearcher(space, 0, (9,), points=points)
    found = sorted(config["x"] for config in everything(searcher))
    assert found == pytest.approx(values, rel=1e-12)
    assert all(space.validate({"x": value}) == {"x": value} for value in found)


def test_given_points_that_lie_on_the_grid_are_not_tried_twice():
    points = [{"optimizer": "rmsprop", "layers": 2}, {"optimizer": "adam", "layers": 1}]
    engine = Optimizer(TREE, mode="min", searcher="grid", scheduler="full", max_resource=1, points=points)
    assert engine.searcher.size == 27
    configs = []
    while (job := engine.ask()) is not None:
        configs.append(job.config)
        engine.report(job.trial_id, 1, 0.0)
        engine.complete(job.trial_id)
    assert engine.finished
    assert configs[:2] == points
    assert len(configs) == len(set(map(key, configs))) == 27


@pytest.mark.parametrize("scheduler", ["full", "asha", "successive_halving"])
def test_a_study_ends_with_its_grid(scheduler):
    grid = {"name": "grid", "points": {"learning_rate": 2, "batch_size": 2, "beta": 3}}
    engine = Optimizer(SPACE, mode="min", searcher=grid, scheduler=scheduler, max_resource=9, seed=0)
    drive(engine, workers=4, seed=0, failures=0.05)
    # 2 x 2 x (layers 1, 9: adam, None, sgd with 0.1, and with 0.5 or 0.9 twice; 5: beta thrice, and sgd's 5)
    assert len(engine.trials) == engine.searcher.size == 4 * (2 * 7 + 2 * 3 + 5)
    assert len({key(record.config) for record in engine.trials.values()}) == engine.searcher.size


def test_the_search_is_expected_to_take_no_more_than_the_grid():
    def expected(**changes):
        arguments = {"mode": "min", "searcher": "grid", "scheduler": "full", "max_resource": 9}
        return Optimizer(TREE, **arguments | changes).expected_resource

    assert expected() == expected(trials=100) == 27 * 9
    assert expected(trials=10) == 90
    assert expected(points=[{"optimizer": "adam", "layers": 1}]) == 28 * 9  # perhaps not on the grid


def test_many_parameters_of_one_value():
    space = SearchSpace({f"p{i}": {"type": "categorical", "choices": [i]} for i in range(1500)})
    assert GridSearcher(space, 0, (9,)).size == 1


@pytest.mark.parametrize(
    ("space", "options", "field", "problem"),
    [
        (line(), {}, "points", "is missing; x is continuous and has no step: say how many values it takes"),
        (TREE, {"points": 1.5}, "points", "must be a whole number of 1 or more, got 1.5"),
        (line(), {"points": {"x": 0}}, "points.x", "must be a whole number of 1 or more, got 0"),
        (TREE, {"points": {"widht": 1}}, "points.widht", "is no number of the space; did you mean 'width'?"),
        (TREE, {"points": {"optimizer": 1}}, "points.optimizer", "is no number of the space"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(space, options, field, problem):
    with pytest.raises(ConfigError) as raised:
        SEARCHERS.create({"name": "grid", **options}, space, 0, (9,))
    assert (raised.value.field, raised.value.problem) == (f"searcher.{field}", problem)


@pytest.mark.parametrize(
    ("parameters", "points"),
    [
        ({"x": {"type": "int", "low": 0, "high": 2**53}}, None),
        ({"x": {"type": "float", "low": 0, "high": 1}}, 2**53),
        ({f"x{i}": {"type": "float", "low": 0, "high": 1} for i in range(50)}, 2),
        ({f"x{i}": {"type": "int", "low": 0, "high": 1, **({"when": {f"x{i - 1}": [0, 1]}} if i else {})}
          for i in range(50)}, None),
    ],
)  # fmt: skip
def test_a_grid_that_is_too_large_is_refused_before_it_is_made(parameters, points):
    with pytest.raises(ConfigError, match=f"at most {MAX_SIZE} configurations"):
        GridSearcher(SearchSpace(parameters), 0, (9,), points=points)


def test_the_largest_grid():
    space = SearchSpace({"x": {"type": "int", "low": 1, "high": MAX_SIZE}})
    assert len({config["x"] for config in everything(GridSearcher(space, 0, (9,)))}) == MAX_SIZE
