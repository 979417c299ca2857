from __future__ import annotations

import math
from statistics import mean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.schedulers import SCHEDULERS, Assignment, Decision
from mlflow_hpo.schedulers.median import MedianScheduler

losses = st.sampled_from([math.inf, *map(float, range(12))])


@given(
    st.lists(st.lists(losses, min_size=6, max_size=6), max_size=25),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.randoms(),
)
def test_stops_what_the_rule_stops(curves, grace, interval, min_trials, rng):
    scheduler = MedianScheduler(grace, 6, min_trials=min_trials, interval=interval)
    reported = {trial: [] for trial in range(len(curves))}
    running = list(reported)
    for trial in running:
        assert scheduler.next(trial) == Assignment(trial, 0, 6)
    while running:
        trial = rng.choice(running)
        ours = reported[trial]
        ours.append(curves[trial][len(ours)])
        epoch = len(ours)
        others = [
            mean(theirs[:epoch]) for o, theirs in reported.items() if o != trial and len(theirs) >= epoch
        ]
        expected = (
            grace <= epoch < 6
            and (epoch - grace) % interval == 0
            and len(others) >= min_trials
            and min(ours) > median(others)
        )
        stopped = scheduler.report(trial, epoch, ours[-1]) is Decision.STOP
        assert stopped == expected
        if stopped or epoch == 6:
            scheduler.complete(trial)
            running.remove(trial)


def test_what_failed_trials_reported_keeps_counting():
    scheduler = MedianScheduler(1, 9, min_trials=1)
    for trial in range(2):
        scheduler.next(trial)
    scheduler.report(0, 1, 1.0)
    scheduler.fail(0)
    assert scheduler.report(1, 1, 2.0) is Decision.STOP


def test_the_levels_are_where_it_decides_and_the_end():
    assert MedianScheduler(2, 9, interval=3).levels == (2, 5, 8, 9)
    assert MedianScheduler(5, 5).levels == (5,)
    assert not MedianScheduler(1, 9).has_work


@pytest.mark.parametrize("option", ["min_trials", "interval"])
def test_wrong_options_are_refused(option):
    with pytest.raises(
        ConfigError, match=rf"scheduler\.{option}: must be a whole number of 1 or more, got 0"
    ):
        SCHEDULERS.create({"name": "median", option: 0}, 1, 9)
