"""The searcher together with its scheduler, as they are made for each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlflow_hpo import ConfigError, Optimizer, SearchSpace
from mlflow_hpo.optimizer import TrialState
from mlflow_hpo.searchers.belief import Belief
from mlflow_hpo.searchers.freeze_thaw import FreezeThawSearcher
from mlflow_hpo.testing import SPACE, drive

PLANE = SearchSpace({name: {"type": "float", "low": 0, "high": 1} for name in ("x", "y")})


def search(space=PLANE, trials=None, **changes):
    arguments = {"mode": "min", "max_resource": 27, "trials": trials}
    arguments |= {"searcher": "freeze_thaw", "scheduler": "freeze_thaw"}
    return Optimizer(space, **arguments | changes)


def curve(config, epoch):
    return (config["x"] - 0.7) ** 2 + (config["y"] - 0.2) ** 2 + 1 / epoch


def run(optimizer, epochs, value=curve):
    """Train with one worker, about so many epochs; return how many there were."""
    spent = 0
    while spent < epochs and (job := optimizer.ask()) is not None:
        for epoch in range(job.start + 1, job.stop + 1):
            optimizer.report(job.trial_id, epoch, value(job.config, epoch))
            spent += 1
        optimizer.complete(job.trial_id)
    return spent


def regrets(searcher, scheduler, epochs=270):
    """Return how far from the optimum the best of each seed lies, its epoch left out of account."""
    found = []
    for seed in range(5):
        optimizer = search(searcher=searcher, scheduler=scheduler, seed=seed)
        run(optimizer, epochs)
        found.append(optimizer.best.value - 1 / 27)
    return np.array(found)


def test_finds_the_optimum_sooner_than_asha():
    ours, asha = regrets("freeze_thaw", "freeze_thaw"), regrets("random", "asha")
    assert np.median(ours) < 0.3 * np.median(asha)
    assert np.median(ours) < 0.003


def test_works_beside_every_other_scheduler():
    modelled, random = regrets("freeze_thaw", "asha"), regrets("random", "asha")
    assert np.median(modelled) < np.median(random)


def test_begins_in_the_centre():
    optimizer = search()
    first = optimizer.ask()
    assert first.config == {"x": 0.5, "y": 0.5}
    assert optimizer.ask().config != first.config


def test_goes_on_with_what_is_good():
    good, bad = [], []
    for seed in range(4):
        optimizer = search(seed=seed)
        run(optimizer, 400)
        for record in optimizer.trials.values():
            distance = curve(record.config, 27) - 1 / 27
            if distance < 0.1:
                good.append(record.resource)
            elif distance > 0.3:
                bad.append(record.resource)
    assert good.count(27) >= 4 * 3
    assert np.mean(good) > 2 * np.mean(bad)


def test_a_model_that_errs_does_not_keep_all_trials_short(monkeypatch):
    monkeypatch.setattr(
        FreezeThawSearcher, "advise", lambda self, paused, may_start: _first(paused, may_start)
    )
    optimizer = search()
    run(optimizer, 1500)
    finished = [trial for trial in optimizer.trials.values() if trial.state is TrialState.FINISHED]
    assert len(finished) >= 2


def _first(paused, may_start):
    """Advise a new trial whenever it may be, else one that was trained least."""
    return None if may_start else paused[min(paused)][0][1]


def test_what_the_searcher_gives_up_is_stopped_and_does_not_count(monkeypatch):
    monkeypatch.setattr(
        FreezeThawSearcher, "advise", lambda self, paused, may_start: _first(paused, may_start)
    )

    def jobs(lost, count):
        optimizer = search()
        done = [optimizer.ask() for _ in range(lost)]
        for job in done:
            optimizer.report(job.trial_id, 1, curve(job.config, 1))
            optimizer.complete(job.trial_id)
        optimizer.searcher.given_up |= {job.trial_id for job in done}
        for _ in range(count):
            job = optimizer.ask()
            for epoch in range(job.start + 1, job.stop + 1):
                optimizer.report(job.trial_id, epoch, curve(job.config, epoch))
            optimizer.complete(job.trial_id)
            done.append(job)
        assert {optimizer.state(trial) for trial in range(lost)} <= {TrialState.STOPPED}
        return [(job.start, job.stop) for job in done[lost:]]

    assert jobs(lost=10, count=150) == jobs(lost=0, count=150)


def test_curves_that_cross_are_followed_to_their_end():
    """What is quick at first ends worst: one who trusts the first rung finds nothing."""

    def crossing(config, epoch):
        return 1 + config["x"] * (epoch / 27 - 0.5) - epoch / 54

    optimizer = search()
    run(optimizer, 500, crossing)
    assert optimizer.best.config["x"] < 0.2


def test_losses_that_never_vary_and_nothing_finite_are_survived():
    for value in (1.0, math.nan):
        optimizer = search(trials=30)
        run(optimizer, 10_000, lambda config, epoch, value=value: value)
        assert optimizer.finished
        assert len(optimizer.trials) == 30


def test_the_scale_of_the_losses_does_not_matter():
    def told(scale):
        optimizer = search(seed=1, trials=40)
        jobs = []
        while (job := optimizer.ask()) is not None:
            jobs.append((job.trial_id, job.stop, job.config))
            for epoch in range(job.start + 1, job.stop + 1):
                optimizer.report(job.trial_id, epoch, scale * curve(job.config, epoch))
            optimizer.complete(job.trial_id)
        return jobs

    assert told(1.0) == told(2.0**100)


def test_a_bound_on_the_trials_bounds_the_epochs():
    optimizer = search(trials=60)
    spent = run(optimizer, 10_000)
    states = [record.state for record in optimizer.trials.values()]
    assert optimizer.finished
    assert TrialState.FINISHED in states
    assert TrialState.PAUSED not in states
    assert spent <= 2 * optimizer.expected_resource + 2 * 27


def test_the_same_configuration_is_not_proposed_twice_while_there_are_others():
    space = SearchSpace(
        {"a": {"type": "categorical", "choices": [*"pqrst"]}, "b": {"type": "int", "low": 1, "high": 6}}
    )
    optimizer = search(space, trials=30)
    run(optimizer, 10_000, lambda config, epoch: abs(config["b"] - 3) + (config["a"] != "q") + 1 / epoch)
    configs = [tuple(record.config.items()) for record in list(optimizer.trials.values())[6:]]
    assert len(set(configs)) >= 0.9 * len(configs)


def test_given_points_come_first_and_teach():
    optimizer = search(points=[{"x": 0.7, "y": 0.2}], trials=20)
    run(optimizer, 10_000)
    configs = [record.config for record in optimizer.trials.values()]
    assert configs[0] == {"x": 0.7, "y": 0.2}
    near = [math.dist(config.values(), (0.7, 0.2)) < 0.1 for config in configs[6:]]
    assert sum(near) >= 5  # by chance it would be less than one


def test_with_many_pending_one_look_chooses_several_also_among_the_paused_only(monkeypatch):
    optimizer = search()
    jobs = [optimizer.ask() for _ in range(120)]
    for job in jobs[:60]:
        optimizer.report(job.trial_id, 1, curve(job.config, 1))
        optimizer.complete(job.trial_id)
    looks = []
    choose = FreezeThawSearcher._choices
    monkeypatch.setattr(
        FreezeThawSearcher, "_choices", lambda self, *args, **kw: looks.append(1) or choose(self, *args, **kw)
    )
    paused = sorted((curve(job.config, 1), job.trial_id) for job in jobs[:60])
    chosen = []
    for _ in range(8):
        chosen.append(optimizer.searcher.advise({1: paused}, may_start=False))
        paused = [each for each in paused if each[1] != chosen[-1]]
    assert len(set(chosen)) == 8
    assert len(looks) == 2


def test_the_cost_stays_bounded(monkeypatch):
    learnt = []
    learn = Belief.learn

    def spy(self, seen, losses, waiting, **known):
        learnt.append((len(seen.features), len(losses), len(waiting.features) if waiting else 0))
        return learn(self, seen, losses, waiting, **known)

    monkeypatch.setattr(Belief, "learn", spy)
    drive(search(SPACE, trials=400), workers=200, failures=0.1, odd_values=0.1)
    seen, losses, waiting = np.max(learnt, axis=0)
    assert 250 < seen == losses <= 330
    assert 50 < waiting <= 100


@pytest.mark.parametrize("searcher", ["random", "tpe", "grid"])
def test_the_scheduler_refuses_a_searcher_without_a_model(searcher):
    with pytest.raises(ConfigError, match="scheduler: freeze_thaw must have a searcher that models"):
        Optimizer(
            SearchSpace({"k": {"type": "int", "low": 1, "high": 3}}),
            searcher=searcher,
            scheduler="freeze_thaw",
            max_resource=9,
        )


@pytest.mark.parametrize("n_startup", [0, -1, 1.5, "six"])
def test_start_up_must_be_a_whole_number(n_startup):
    with pytest.raises(ConfigError, match="n_startup: must be"):
        FreezeThawSearcher(PLANE, 0, (1, 9), n_startup=n_startup)
