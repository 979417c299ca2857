"""What the Gaussian process must learn, and from what."""

from __future__ import annotations

import math
import sys
import warnings
from statistics import median, stdev

import numpy as np
import pytest
import torch

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.optimizer import Optimizer
from mlflow_hpo.searchers import SEARCHERS
from mlflow_hpo.searchers.gp import GpSearcher
from mlflow_hpo.searchers.sobol import SobolSearcher
from mlflow_hpo.searchers.surrogate import Surrogate
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.testing import SPACE, drive

LINE = SearchSpace({"x": {"type": "float", "low": 0, "high": 1}})


def teach(searcher, losses, *, resource, start=0):
    """Adopt one trial on LINE for each (x, loss), report it and end it."""
    for trial, (x, loss) in enumerate(losses, start):
        searcher.adopt(trial, {"x": x})
        searcher.report(trial, resource, loss)
        searcher.complete(trial)


def parabola(centre, count=12):
    return [(x, (x - centre) ** 2) for x in np.linspace(0, 1, count).tolist()]


def taught(centre=0.23, *, levels=(9,), **options):
    searcher = GpSearcher(LINE, 0, levels, **options)
    teach(searcher, parabola(centre), resource=levels[-1])
    return searcher


def batch(searcher, count, *, start=1000):
    return [searcher.suggest(trial)["x"] for trial in range(start, start + count)]


def test_finds_a_conditional_optimum_better_than_random():
    def best(searcher, seed):
        engine = Optimizer(SPACE, mode="min", searcher=searcher, scheduler="full", trials=24, seed=seed)
        drive(engine, workers=2, seed=seed)
        return engine.best.value - 1  # the optimum is 1

    gp, random = ([best(searcher, seed) for seed in range(3)] for searcher in ("gp", "random"))
    assert median(gp) < median(random) / 10


@pytest.mark.parametrize("acquisition", ["log_ei", "ei", "ucb", "pi"])
def test_every_acquisition_proposes_near_the_optimum(acquisition):
    assert batch(taught(acquisition=acquisition, kappa=0.1), 1)[0] == pytest.approx(0.23, abs=0.05)


def test_acquisitions_differ_and_kappa_explores():
    def proposal(**options):
        searcher = GpSearcher(LINE, 0, (9,), n_startup=4, **options)
        teach(searcher, [(0.4, 0.3), (0.5, 0.1), (0.6, 0.2), (0.65, 0.4)], resource=9)
        return batch(searcher, 1)[0]

    proposals = {name: proposal(acquisition=name) for name in ("log_ei", "ucb", "pi")}
    assert len(set(proposals.values())) == 3
    assert proposal() == proposal(acquisition="ei") == proposals["log_ei"]
    near, far = (abs(proposal(acquisition="ucb", kappa=kappa) - 0.5) for kappa in (0.01, 50))
    assert near < 0.1 < 0.3 < far


def test_start_up_is_a_sobol_sequence_until_enough_trials_have_a_loss():
    searcher = GpSearcher(LINE, 3, (9,), n_startup=12)
    teach(searcher, parabola(0.2)[:11], resource=9)
    for trial in range(100, 130):  # pending, diverged and failed ones do not count
        searcher.adopt(trial, {"x": 0.5})
        if trial % 3 == 1:
            searcher.report(trial, 9, math.inf)
        elif trial % 3 == 2:
            searcher.fail(trial)
    sobol = SobolSearcher(LINE, 3, (9,))
    assert batch(searcher, 5) == [sobol.suggest(trial)["x"] for trial in range(5)]
    teach(searcher, [(0.9, 0.5)], resource=9, start=500)
    assert batch(searcher, 1) != [sobol.suggest(5)["x"]]


def test_pending_proposals_stay_apart():
    def spread(forget):
        searcher = taught()
        proposals = []
        for trial in range(100, 108):
            proposals.append(searcher.suggest(trial)["x"])
            if forget:
                searcher._pending.clear()
                searcher._tried.clear()
        return stdev(proposals)

    assert spread(forget=False) > 1.5 * spread(forget=True)


def test_with_many_pending_one_look_at_the_model_makes_several_proposals(monkeypatch):
    looks = []
    fit = Surrogate.fit
    monkeypatch.setattr(Surrogate, "fit", lambda *args: looks.append(1) or fit(*args))
    searcher = taught()
    for trial in range(100, 148):
        searcher.adopt(trial, {"x": trial / 148})

    proposals = batch(searcher, 9)

    assert len(looks) == 3  # for four each, and for the ninth
    assert len(set(proposals)) == 9


def test_learns_from_trials_that_were_stopped_early():
    searcher = GpSearcher(LINE, 0, (1, 3, 9))
    teach(searcher, parabola(0.8), resource=1)
    assert batch(searcher, 1)[0] == pytest.approx(0.8, abs=0.1)


def test_decides_for_the_highest_level_that_has_enough_trials():
    searcher = GpSearcher(LINE, 0, (1, 9), n_startup=8, acquisition="ucb", kappa=0.01)
    teach(searcher, parabola(0.8, 20), resource=1)  # misleading: what is good early
    teach(searcher, parabola(0.2, 20), resource=9, start=100)
    assert batch(searcher, 1)[0] == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize("end", ["fail", "diverge", "silent"])
def test_keeps_away_from_where_trials_come_to_nothing(end):
    searcher = taught(0.5, acquisition="ucb", kappa=0.01)
    for trial in range(100, 120):
        searcher.adopt(trial, {"x": 0.40 + (trial - 100) / 100})
        if end == "fail":
            searcher.fail(trial)
        else:
            if end == "diverge":
                searcher.report(trial, 9, math.inf)
            searcher.complete(trial)
    assert abs(batch(searcher, 1)[0] - 0.5) > 0.1


def test_a_huge_loss_does_not_hide_the_others():
    searcher = GpSearcher(LINE, 0, (9,))
    teach(searcher, [*parabola(0.23), (0.95, 1e12)], resource=9)
    assert batch(searcher, 1)[0] == pytest.approx(0.23, abs=0.1)


def test_a_warp_learns_that_a_loss_changes_most_near_a_bound():
    def error(warp):
        """How wrong the model is, between what it was told, about a loss that is smooth on the log scale."""
        rng = np.random.default_rng(0)
        x = np.concatenate([10 ** -rng.uniform(0, 4, 12), rng.random(12)])
        at = np.geomspace(1e-3, 1, 50)

        def loss(x):
            return np.sin(2 * np.log10(x))

        surrogate = Surrogate(noisy=True, warped=warp)
        with surrogate.isolated(0):
            model = surrogate.fit(x[:, None], loss(x))
            return np.abs(surrogate.mean(model, at[:, None]) - loss(at)).mean()

    assert error(warp=True) < error(warp=False) / 2


def test_a_warp_sees_beyond_the_range_of_the_data():
    x = np.linspace(0.2, 0.8, 20)
    surrogate = Surrogate(noisy=True, warped=True)
    with surrogate.isolated(0):
        model = surrogate.fit(x[:, None], (x - 0.95) ** 2)
        expected = surrogate.mean(model, np.linspace(0.8, 1, 5)[:, None])
    assert len(set(expected.round(6))) == 5


def test_a_batch_repeats_no_configuration_while_there_are_others():
    space = SearchSpace({name: {"type": "int", "low": 1, "high": 6} for name in "ab"})
    searcher = GpSearcher(space, 0, (9,), n_startup=4)
    places = [(a, b) for a in range(1, 7) for b in range(1, 7)]
    for trial, (a, b) in enumerate(places[:30]):  # the last 25 of them stay pending
        searcher.adopt(trial, {"a": a, "b": b})
        if trial < 5:
            searcher.report(trial, 9, abs(a - 3.0) + abs(b - 3.0))
            searcher.complete(trial)
    proposals = [tuple(searcher.suggest(trial).values()) for trial in range(100, 106)]
    assert sorted(proposals) == places[30:]


@pytest.mark.parametrize("options", [{}, {"noise": False}, {"warp": True}, {"noise": False, "warp": True}])
def test_survives_losses_at_the_ends_of_floats_and_contradictions(options):
    searcher = GpSearcher(LINE, 0, (9,), **options)
    teach(searcher, [(0.5, loss) for loss in [1e308, -1e308, 5.0, 0.0] * 5], resource=9)
    for trial in range(100, 120):
        searcher.adopt(trial, {"x": 0.5})
    assert all(LINE.contains({"x": x}) for x in batch(searcher, 2))


def test_losses_that_are_all_the_same_tell_nothing():
    searcher = GpSearcher(LINE, 0, (9,))
    teach(searcher, [(x, 1.0) for x, _ in parabola(0.5)], resource=9)
    sobol = SobolSearcher(LINE, 0, (9,))
    assert batch(searcher, 2) == [sobol.suggest(trial)["x"] for trial in range(2)]


def test_tries_every_configuration_of_a_small_space_before_it_repeats_one():
    space = SearchSpace(
        {
            "n": {"type": "int", "low": 1, "high": 4},
            "b": {"type": "categorical", "choices": [0, 1, 2]},
        }
    )
    searcher = GpSearcher(space, 0, (1,), n_startup=4)
    tried = set()
    for trial in range(14):
        config = searcher.suggest(trial)
        tried.add(tuple(config.values()))
        searcher.report(trial, 1, config["n"] + config["b"] / 10 + trial / 1000)
        searcher.complete(trial)
    assert len(tried) == 12


def test_the_model_sees_a_bounded_part_of_a_long_history():
    searcher = GpSearcher(LINE, 0, (1, 9))
    rng = np.random.default_rng(0)
    teach(searcher, [(0.9 + i / 1e4, -1.0 - i / 1e4) for i in range(40)], resource=9)  # old and best
    teach(searcher, [(x, rng.random()) for x in rng.random(1000).tolist()], resource=9, start=100)
    for trial in range(2000, 2500):
        searcher.adopt(trial, {"x": 0.5})
        if trial % 2:
            searcher.fail(trial)
    points, levels, losses = searcher._data(9)
    assert 300 < len(points) == len(levels) == len(losses) <= 350
    assert (points[losses == -1.0] > 0.9).all()
    assert searcher.suggest(9000)["x"] > 0.8


def test_a_proposal_depends_on_the_seed_and_leaves_torch_and_warnings_as_they_were():
    torch.manual_seed(5)
    before, threads, filters = torch.random.get_rng_state(), torch.get_num_threads(), list(warnings.filters)
    first = batch(taught(), 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (torch.get_num_threads(), warnings.filters) == (threads, filters)
    assert torch.get_default_dtype() is torch.float32
    torch.manual_seed(6)
    assert batch(taught(), 3) == first
    other = GpSearcher(LINE, 1, (9,))
    teach(other, parabola(0.23), resource=9)
    assert batch(other, 3) != first


def test_losses_without_noise_are_met_exactly():
    assert batch(taught(noise=False), 1)[0] == pytest.approx(0.23, abs=0.05)


def test_names_the_extra_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "botorch", None)
    with pytest.raises(ConfigError) as raised:
        SEARCHERS.create("gp", LINE, 0, (1,))
    assert str(raised.value) == "searcher: gp needs the extra: pip install 'mlflow-hpo[gp]'"


@pytest.mark.parametrize(
    ("options", "field", "problem"),
    [
        ({"acquisition": "eii"}, "acquisition", "must be one of log_ei, ei, ucb, pi, got 'eii'; did "
         "you mean 'ei'?"),
        ({"kappa": 0}, "kappa", "must be a finite number above 0, got 0"),
        ({"n_startup": 1}, "n_startup", "must be a whole number of 2 or more, got 1"),
        ({"noise": 0.1}, "noise", "must be true or false, got 0.1"),
        ({"warp": "yes"}, "warp", "must be true or false, got 'yes'"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options, field, problem):
    with pytest.raises(ConfigError) as raised:
        SEARCHERS.create({"name": "gp", **options}, LINE, 0, (9,))
    assert (raised.value.field, raised.value.problem) == (f"searcher.{field}", problem)
