"""What TPE must learn, and from what."""

from __future__ import annotations

import math
from statistics import mean, stdev

import numpy as np
import pytest

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.optimizer import Optimizer
from mlflow_hpo.searchers import SEARCHERS
from mlflow_hpo.searchers.tpe import TpeSearcher
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.testing import SPACE, drive, error

LINE = SearchSpace({"x": {"type": "float", "low": 0, "high": 1}})


def teach(searcher, losses, *, resource, start=0):
    """Adopt one trial on LINE for each (x, loss), report it and end it."""
    for trial, (x, loss) in enumerate(losses, start):
        searcher.adopt(trial, {"x": x})
        searcher.report(trial, resource, loss)
        searcher.complete(trial)


def proposals(searcher, count, *, start=1000):
    return [searcher.suggest(trial)["x"] for trial in range(start, start + count)]


def parabola(low, high, centre, count=40):
    """Return `count` pairs (x, loss) in random order, the least loss at `centre`."""
    xs = np.random.default_rng(0).permutation(np.linspace(low, high, count)).tolist()
    return [(x, (x - centre) ** 2) for x in xs]


def test_finds_a_conditional_optimum_better_than_random():
    def best(searcher, seed):
        engine = Optimizer(SPACE, mode="min", searcher=searcher, scheduler="full", trials=80, seed=seed)
        drive(engine, workers=4, seed=seed)
        return engine.best.value - 1  # the optimum is 1

    tpe, random = ([best(searcher, seed) for seed in range(5)] for searcher in ("tpe", "random"))
    assert mean(tpe) < mean(random) / 2
    assert mean(tpe) < 0.1


def test_proposes_near_the_best_and_not_before_enough_trials_have_ended():
    searcher = TpeSearcher(LINE, 0, (9,), n_startup=30)
    teach(searcher, parabola(0, 1, 0.2)[:29], resource=9)
    assert stdev(proposals(searcher, 30)) > 0.2
    searcher = TpeSearcher(LINE, 0, (9,), n_startup=30)
    teach(searcher, parabola(0, 1, 0.2), resource=9)
    assert abs(mean(proposals(searcher, 10)) - 0.2) < 0.1


@pytest.mark.parametrize("worthless", [math.inf, None])
def test_start_up_counts_trials_with_a_value_only(worthless):
    def searcher():
        made = TpeSearcher(LINE, 0, (9,), n_startup=10)
        for trial in range(200):  # 100 pending, and 100 that failed or diverged
            made.adopt(trial, {"x": 0.5})
            if trial % 2:
                if worthless is not None:
                    made.report(trial, 9, worthless)
                    made.complete(trial)
                else:
                    made.fail(trial)
        return made

    cold, warm = searcher(), searcher()
    teach(cold, parabola(0, 1, 0.2, 9), resource=9, start=500)
    teach(warm, parabola(0, 1, 0.2, 10), resource=9, start=500)
    prior = [TpeSearcher(LINE, 0, (9,)).suggest(trial)["x"] for trial in range(1000, 1010)]
    assert proposals(cold, 10) == prior
    assert proposals(warm, 10) != prior


def test_learns_from_trials_that_were_stopped_early():
    searcher = TpeSearcher(LINE, 0, (1, 3, 9))
    teach(searcher, parabola(0, 1, 0.8), resource=1)
    assert abs(mean(proposals(searcher, 10)) - 0.8) < 0.1


def test_learns_at_the_highest_level_that_has_enough_trials():
    searcher = TpeSearcher(LINE, 0, (1, 9), n_startup=10)
    teach(searcher, parabola(0, 1, 0.8), resource=1)  # misleading: what is good early
    teach(searcher, parabola(0, 1, 0.2, 9), resource=9, start=100)
    assert abs(proposals(searcher, 1)[0] - 0.8) < 0.15
    teach(searcher, [(0.21, 0.0001)], resource=9, start=200)
    assert abs(mean(proposals(searcher, 5, start=2000)) - 0.2) < 0.15


def test_uses_the_value_at_exactly_the_level():
    searcher = TpeSearcher(LINE, 0, (3,))
    for trial, (x, loss) in enumerate(parabola(0, 1, 0.2)):
        searcher.adopt(trial, {"x": x})
        searcher.report(trial, 1, (x - 0.8) ** 2 - 100)
        searcher.report(trial, 3, loss)
        searcher.report(trial, 4, (x - 0.8) ** 2 - 100)
        searcher.complete(trial)
    assert abs(mean(proposals(searcher, 10)) - 0.2) < 0.1


@pytest.mark.parametrize("end", ["fail", "diverge", "silent"])
def test_keeps_away_from_where_trials_come_to_nothing(end):
    def below_half(teach_failures):
        searcher = TpeSearcher(LINE, 0, (9,), n_startup=10)
        teach(searcher, [(x, abs(x - 0.5)) for x in np.linspace(0.3, 0.7, 40).tolist()], resource=9)
        for trial in range(100, 160) if teach_failures else ():
            searcher.adopt(trial, {"x": 0.40 + (trial - 100) / 600})
            if end == "fail":
                searcher.fail(trial)
            else:
                if end == "diverge":
                    searcher.report(trial, 9, math.inf)
                searcher.complete(trial)
        return sum(x < 0.5 for x in proposals(searcher, 40))

    assert below_half(teach_failures=True) < below_half(teach_failures=False)


def test_pending_proposals_stay_apart():
    def spread(forget):
        searcher = TpeSearcher(LINE, 0, (9,))
        teach(searcher, parabola(0, 1, 0.5), resource=9)
        batch = []
        for trial in range(100, 140):
            batch.append(searcher.suggest(trial)["x"])
            if forget:
                searcher._pending.pop(trial)
        return stdev(batch)

    assert spread(forget=False) > 3 * spread(forget=True)


def test_learns_which_choice_is_best_and_its_conditional_parameter():
    searcher = TpeSearcher(SPACE, 0, (9,))
    rng = np.random.default_rng(0)
    for trial in range(150):
        config = SPACE.sample(rng)
        searcher.adopt(trial, config)
        searcher.report(trial, 9, 10 * abs(config.get("momentum", 9) - 0.5) + error(config, 9))
        searcher.complete(trial)
    proposed = [searcher.suggest(trial) for trial in range(1000, 1030)]
    assert all(SPACE.validate(config) == config for config in proposed)
    assert sum(config["optimizer"] == "sgd" for config in proposed) > 15
    momenta = [config["momentum"] for config in proposed if "momentum" in config]
    assert sum(momentum == 0.5 for momentum in momenta) > len(momenta) / 3


@pytest.mark.parametrize(
    "parameter",
    [
        {"type": "categorical", "choices": ["only"]},
        {"type": "int", "low": 0, "high": 1},
        {"type": "float", "low": 1e-9, "high": 1.0, "log": True},
        {"type": "float", "low": 0.1, "high": 0.7, "step": 0.2},
        {"type": "int", "low": 1, "high": 1000, "log": True},
        {"type": "categorical", "choices": [None, True, 1.5, "a"]},
    ],
)
def test_proposals_at_the_edges_stay_inside(parameter):
    space = SearchSpace({"x": parameter})
    for edge in (0.0, 1.0):
        searcher = TpeSearcher(space, 0, (9,), n_startup=5)
        for trial in range(20):
            searcher.adopt(trial, space.from_unit([edge if trial < 10 else trial / 20]))
            searcher.report(trial, 9, float(trial))
        for trial in range(100, 115):
            config = searcher.suggest(trial)
            assert space.validate(config) == config


def test_looks_at_a_bounded_part_of_a_long_history():
    searcher = TpeSearcher(LINE, 0, (9,))
    rng = np.random.default_rng(0)
    teach(searcher, [(0.9 + 0.001 * i, -1.0) for i in range(25)], resource=9)  # the best are the oldest
    teach(searcher, [(x, 1.0) for x in rng.random(3000).tolist()], resource=9, start=100)
    for trial in range(5000, 8000):
        searcher.adopt(trial, {"x": 0.5})
    sizes = []
    docs = searcher._docs

    def counted(trials, loss):
        sizes.append(len(trials))
        return docs(trials, loss)

    searcher._docs = counted
    assert mean(proposals(searcher, 5, start=9000)) > 0.8
    assert sizes == [14, 500] * 5


def test_a_large_gamma_takes_half_for_good_at_most():
    searcher = TpeSearcher(LINE, 0, (9,), gamma=50, n_startup=2)
    teach(searcher, parabola(0, 1, 0.2, 4), resource=9)
    assert LINE.contains(searcher.suggest(10))


@pytest.mark.parametrize(
    ("options", "field", "problem"),
    [
        ({"n_startup": 1.5}, "n_startup", "must be a whole number of 0 or more, got 1.5"),
        ({"n_ei_candidates": 0}, "n_ei_candidates", "must be a whole number of 1 or more, got 0"),
        ({"gamma": 0}, "gamma", "must be a finite number above 0, got 0"),
        ({"gama": 1}, "gama", "is no option of tpe; must be one of n_startup, n_ei_candidates, gamma; "
         "did you mean 'gamma'?"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options, field, problem):
    with pytest.raises(ConfigError) as raised:
        SEARCHERS.create({"name": "tpe", **options}, LINE, 0, (9,))
    assert (raised.value.field, raised.value.problem) == (f"searcher.{field}", problem)
