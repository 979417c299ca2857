"""Searches that begin with what earlier tasks lead to expect."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from mlflow_hpo import ConfigError, History, Optimizer, SearchSpace
from mlflow_hpo.optimizer import TrialState
from mlflow_hpo.searchers.curve_model import CurveModel, Points
from mlflow_hpo.testing import SPACE, drive, error

PLANE = SearchSpace({name: {"type": "float", "low": 0, "high": 1} for name in ("x", "y")})
AUTO = {"searcher": "freeze_thaw", "scheduler": "freeze_thaw"}


def loss(config, epoch, best):
    return math.dist(config.values(), best) ** 2 + 0.5 / epoch


def plane_history(*bests, sign=1.0, count=30):
    """History of random trials on tasks with their best configurations at some places."""
    rng = np.random.default_rng(0)
    records = []
    for number, best in enumerate(bests):
        for _ in range(count):
            config = PLANE.sample(rng)
            curve = [[epoch, sign * loss(config, epoch, best)] for epoch in (1, 3, 9)]
            records.append({"task": f"task {number}", "config": config, "curve": curve})
    return History.from_records(records, mode="min")


def tried_in(history):
    """Return the configurations of a history."""
    return [trial.config for task in history.tasks for trial in task.trials]


def step(optimizer, best):
    """Do a job, and return it; None if there is none."""
    job = optimizer.ask()
    if job is not None:
        for epoch in range(job.start + 1, job.stop + 1):
            optimizer.report(job.trial_id, epoch, loss(job.config, epoch, best))
        optimizer.complete(job.trial_id)
    return job


def search(history=None, *, best=(0.7, 0.2), epochs=90, seed=0, **changes):
    """Search the plane with one worker for so many epochs and return the optimizer."""
    arguments = {"mode": "min", "max_resource": 9, "seed": seed} | AUTO | changes
    optimizer = Optimizer(PLANE, history=history, **arguments)
    while epochs > 0 and (job := step(optimizer, best)) is not None:
        epochs -= job.stop - job.start
    return optimizer


def test_begins_near_what_was_best_and_gets_there_sooner():
    history = plane_history((0.7, 0.25), (0.75, 0.2), (0.65, 0.2))
    warm, cold = search(history, epochs=18), search(epochs=18)
    assert math.dist(warm.trials[0].config.values(), (0.7, 0.2)) < 0.2
    assert warm.best.value < cold.best.value


def test_a_history_that_misleads_costs_little():
    found = {
        misled: [
            search(plane_history((0.7, 0.2), (0.7, 0.3), sign=-1.0) if misled else None, seed=seed).best.value
            for seed in range(9)
        ]
        for misled in (True, False)
    }
    assert np.median(found[True]) < np.median(found[False]) + 0.01


def test_the_similar_task_is_found_out_by_its_losses():
    history = plane_history((0.1, 0.9), (0.7, 0.2), (0.2, 0.1))
    found = [search(history, epochs=18, seed=seed).best.config.values() for seed in range(15)]
    assert np.median([math.dist(each, (0.7, 0.2)) for each in found]) < 0.1


@pytest.mark.parametrize("longest", [9, 27])
def test_after_one_or_two_full_trainings_the_history_is_forgotten_and_the_search_is_the_one_without(longest):
    history = plane_history((0.3, 0.4))
    optimizer = search(history, epochs=0, max_resource=longest)
    trained = 0
    while optimizer.searcher._informed:
        job = step(optimizer, best=(0.3, 0.35))
        trained += job.stop - job.start
    whole = [record for record in optimizer.trials.values() if record.resource == longest]
    assert (longest <= trained and len(whole) == 1) or 2 * longest <= trained < 3 * longest
    given_up = optimizer.searcher.given_up
    assert len(given_up) > 3
    paused = [record.trial_id for record in optimizer.trials.values() if record.state is TrialState.PAUSED]
    assert not given_up & {*paused}

    after = [step(optimizer, best=(0.3, 0.35)) for _ in range(200)]
    cold = search(epochs=0, max_resource=longest)
    known = {tuple(step(cold, best=(0.3, 0.35)).config.values()) for _ in range(200)}
    new = [tuple(job.config.values()) for job in after if job.start == 0]
    assert len(new) > 20
    assert sum(config in known for config in new) > 0.8 * len(new)


def test_a_history_that_the_first_losses_contradict_is_forgotten_at_once():
    history = plane_history((0.7, 0.2), (0.6, 0.3), sign=-1.0)
    optimizer = search(history, epochs=0)
    while optimizer.searcher._informed:
        step(optimizer, best=(0.7, 0.2))
    assert len(optimizer.trials) == 6
    tried = tried_in(history)
    assert not any(step(optimizer, best=(0.7, 0.2)).config in tried for _ in range(8))


@pytest.mark.parametrize("scheduler", ["freeze_thaw", "asha", "full"])
def test_a_history_whose_best_fails_is_forgotten_at_once(scheduler):
    """What was best before takes more memory than there is now."""
    history = plane_history((0.9, 0.3), (0.85, 0.25))
    optimizer = search(history, epochs=0, scheduler=scheduler)
    while optimizer.searcher._informed:
        job = optimizer.ask()
        if job.config["x"] > 0.6:
            optimizer.fail(job.trial_id, "out of memory")
        else:
            for epoch in range(job.start + 1, job.stop + 1):
                optimizer.report(job.trial_id, epoch, loss(job.config, epoch, (0.2, 0.3)))
            optimizer.complete(job.trial_id)
    assert optimizer.misled
    assert len(optimizer.trials) == 6


def test_trials_that_were_interrupted_before_they_had_any_loss_contradict_nothing():
    optimizer = search(plane_history((0.7, 0.25)), epochs=0)
    for number in range(6):
        optimizer.remember(number, {"x": number / 6, "y": 0.5}, [])
    assert not optimizer.misled
    assert optimizer.searcher._informed


def test_after_a_contradiction_the_search_is_the_one_without_history():
    def jobs(history, count):
        optimizer = search(history, epochs=0, max_resource=81)
        done = [(job.config, job.stop) for job in (step(optimizer, best=(0.7, 0.2)) for _ in range(count))]
        return done, optimizer

    history = plane_history((0.7, 0.2), (0.6, 0.3), sign=-1.0)
    tried = tried_in(history)
    misled, optimizer = jobs(history, 203)
    cold, _ = jobs(None, 200)
    assert [job for job in misled if job[0] not in tried] == cold
    states = [record.state for record in optimizer.trials.values() if record.config in tried]
    assert states == [TrialState.STOPPED] * 3


def test_where_the_first_losses_agree_the_model_decides_after_four():
    history = plane_history((0.7, 0.25), (0.75, 0.2), (0.65, 0.2))
    tried = tried_in(history)
    optimizer = search(history, epochs=0, max_resource=27)
    searcher = optimizer.searcher
    first = [step(optimizer, best=(0.7, 0.2)).config for _ in range(4)]
    assert [config in tried for config in first] == [True, False] * 2
    while searcher._informed:
        assert len(searcher._unasked) == 4
        step(optimizer, best=(0.7, 0.2))
    assert len(optimizer.trials) > 4
    cold = search(epochs=0, max_resource=27)
    evenly = [step(cold, best=(0.7, 0.2)).config for _ in range(6)]
    assert [first[1], first[3]] == evenly[:2]
    assert [step(optimizer, best=(0.7, 0.2)).config for _ in range(4)] == evenly[2:]


def test_where_nothing_pauses_a_history_serves_for_the_first_six_trials():
    history = plane_history((0.7, 0.25), (0.75, 0.2), (0.65, 0.2))
    optimizer = search(history, epochs=0, scheduler="full")
    while optimizer.searcher._informed:
        step(optimizer, best=(0.7, 0.2))
    assert len(optimizer.trials) == 6
    assert optimizer.best.value < search(epochs=6 * 9, scheduler="full").best.value


def test_a_history_of_another_place_does_not_keep_the_search_there():
    history = plane_history((0.9, 0.9))
    found = [search(history, best=(0.1, 0.2), epochs=9 * 30, seed=seed).best.config for seed in range(5)]
    assert np.median([math.dist(config.values(), (0.1, 0.2)) for config in found]) < 0.1


@pytest.mark.parametrize("searcher", ["random", "tpe", "sobol"])
def test_other_searchers_begin_with_the_best_of_the_history(searcher):
    history = plane_history((0.7, 0.2))
    point = {"x": 0.5, "y": 0.5}
    optimizer = search(history, searcher=searcher, scheduler="asha", trials=12, points=[point])
    configs = [record.config for record in optimizer.trials.values()]
    tried = [trial.config for trial in history.tasks[0].trials]
    assert configs[0] == point
    assert all(config in tried for config in configs[1:4])
    assert not any(config in tried for config in configs[4:])
    assert math.dist(configs[1].values(), (0.7, 0.2)) < 0.2


@pytest.mark.parametrize("scheduler", ["asha", "full"])
@pytest.mark.parametrize("searcher", ["random", "tpe", "sobol", "gp"])
def test_other_searchers_drop_a_history_that_misleads_after_three_of_its_configurations(searcher, scheduler):
    history = plane_history((0.7, 0.2), (0.6, 0.3), sign=-1.0)
    optimizer = search(history, searcher=searcher, scheduler=scheduler, trials=40, epochs=9 * 15)
    tried = tried_in(history)
    assert optimizer.misled
    assert [number for number, record in optimizer.trials.items() if record.config in tried] == [0, 1, 2]


@pytest.mark.parametrize("searcher", ["random", "tpe", "sobol", "gp"])
def test_other_searchers_go_on_with_a_history_that_serves(searcher):
    history = plane_history((0.7, 0.25), (0.75, 0.2), (0.65, 0.2))
    optimizer = search(history, searcher=searcher, scheduler="asha", trials=40, epochs=9 * 15)
    tried = tried_in(history)
    assert not optimizer.misled
    taught = [number for number, record in optimizer.trials.items() if record.config in tried]
    assert taught == [0, 1, 2, *range(6, 13)]


@pytest.mark.parametrize("workers", [1, 40])
def test_the_same_seed_and_history_give_the_same_jobs_whatever_happens(workers):
    records = []
    rng = np.random.default_rng(1)
    for _ in range(25):
        config = SPACE.sample(rng)
        records.append(
            {"task": "t", "config": config, "curve": [[epoch, error(config, epoch)] for epoch in (1, 3, 9)]}
        )
    first, again = (
        drive(
            Optimizer(
                SPACE, mode="min", max_resource=9, seed=1, trials=60, **AUTO,
                history=History.from_records(records, mode="min"),
            ),
            workers=workers, failures=0.1, odd_values=0.1, infeasible=0.1,
        )
        for _ in range(2)
    )  # fmt: skip
    assert first == again
    assert first[0].config in [record["config"] for record in records]


def test_a_history_without_anything_to_tell_changes_nothing():
    empty = History.from_records([], mode="min")
    outside = History.from_records([{"task": "t", "config": {"z": 1}, "curve": [[1, 0.5]]}], mode="min")
    failed = History.from_records(
        [{"task": "t", "config": {"x": 0.5, "y": 0.5}, "curve": [], "failed": True}], mode="min"
    )
    cold = search().best
    assert all(search(history).best == cold for history in (empty, outside, failed))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "max"}, "history: must be of values whose better side is max, got min"),
        ({"task": "digits"}, "task: must be a mapping, got 'digits'"),
        ({"task": {"rows": 3}}, "task: must be one of name, features, got 'rows'"),
        ({"task": {"features": {"rows": math.nan}}}, r"task\.features\.rows: must be"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        search(plane_history((0.5, 0.5)), **changes)


def test_the_gradient_with_trends_is_that_of_the_objective():
    rng = np.random.default_rng(0)
    heights = np.tile([0.0, 0.5, 1.0], 8)
    points = Points(rng.random((24, 2)), heights, np.arange(24) // 3, rng.standard_normal((24, 3)))
    losses = rng.standard_normal(24)
    model = CurveModel(2, np.array([0.5, 0.3, 0.2]))
    theta = model._theta + 0.3 * rng.standard_normal(len(model._theta))
    numeric = approx_fprime(theta, lambda t: model._objective(t, points, losses)[0], 1e-6)
    assert model._objective(theta, points, losses)[1] == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_a_model_with_trends_begins_with_them_and_departs_from_them():
    rng = np.random.default_rng(0)
    features = rng.random((20, 1))
    trends = np.column_stack([features[:, 0], -features[:, 0]])
    points = Points(features, np.ones(20), np.arange(20), trends)
    model = CurveModel(1, np.array([0.5, 0.5]))
    losses = 2 * trends[:, 1] + 3
    model.fit(points, losses)
    model.condition(points, losses)
    new = Points(np.array([[0.5]]), np.ones(1), np.array([-1]), np.array([[0.5, -0.5]]))
    mean, deviation = model.predict(new)
    assert mean == pytest.approx([2.0], abs=0.1)
    assert deviation[0] < 0.5
