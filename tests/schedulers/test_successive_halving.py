from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.schedulers import SCHEDULERS, Assignment, Decision
from mlflow_hpo.schedulers.successive_halving import SuccessiveHalvingScheduler


def train(scheduler, assignment, loss):
    """Run one assignment to its end."""
    assert scheduler.report(assignment.trial_id, assignment.stop, loss) is Decision.CONTINUE
    scheduler.complete(assignment.trial_id)


def run(scheduler, losses, *, workers=1, failing=()):
    """Train as many trials as there are `losses`, oldest job first; return all assignments."""
    assignments, running, trials = [], [], 0
    while True:
        while len(running) < workers:
            if trials == len(losses):
                scheduler.close()
            assignment = scheduler.next(trials if trials < len(losses) else None)
            if assignment is None:
                break
            trials += assignment.trial_id == trials
            running.append(assignment)
            assignments.append(assignment)
        if not running:
            return assignments
        assignment = running.pop(0)
        if assignment.trial_id in failing:
            scheduler.fail(assignment.trial_id)
        else:
            train(scheduler, assignment, losses[assignment.trial_id])


def reached(assignments):
    """Return epoch -> ids of the trials that were trained up to it."""
    found = {}
    for assignment in assignments:
        found.setdefault(assignment.stop, set()).add(assignment.trial_id)
    return found


@given(st.permutations(range(27)), st.integers(1, 40))
def test_a_bracket_of_27_keeps_the_best_9_3_and_1(losses, workers):
    scheduler = SuccessiveHalvingScheduler(1, 27)
    levels = reached(run(scheduler, losses, workers=workers))
    assert {stop: {losses[trial] for trial in trials} for stop, trials in levels.items()} == {
        1: {*range(27)}, 3: {*range(9)}, 9: {*range(3)}, 27: {0},
    }  # fmt: skip
    order = [losses[trial] for trial in scheduler.eliminated]
    assert order == [*range(9, 27), *range(3, 9), 1, 2]


@given(st.integers(1, 200), st.integers(1, 30), st.sampled_from([2, 2.5, 3, 4]), st.integers(1, 64))
def test_every_rung_of_a_shrunk_bracket_keeps_its_share(trials, size, eta, workers):
    scheduler = SuccessiveHalvingScheduler(1, 16, eta=eta, bracket_size=size)
    assignments = run(scheduler, [(7919 * i) % 1009 for i in range(trials)], workers=workers)
    counts = Counter((a.bracket, a.rung) for a in assignments)
    sizes = [size] * (trials // size) + [trials % size] * (trials % size > 0)
    for bracket, entrants in enumerate(sizes):
        for rung in range(len(scheduler.levels)):
            assert counts.pop((bracket, rung)) == entrants
            entrants = max(1, int(entrants // eta))
    assert not counts


def test_assignments_go_on_where_the_last_rung_ended():
    assert run(SuccessiveHalvingScheduler(2, 50, bracket_size=3), [2.0, 1.0, 3.0]) == [
        Assignment(0, 0, 2, 0, 0),
        Assignment(1, 0, 2, 0, 0),
        Assignment(2, 0, 2, 0, 0),
        Assignment(1, 2, 6, 0, 1),
        Assignment(1, 6, 18, 0, 2),
        Assignment(1, 18, 50, 0, 3),
    ]


def test_idle_workers_begin_the_next_bracket_and_older_promotions_come_first():
    scheduler = SuccessiveHalvingScheduler(1, 9, bracket_size=3)
    first = [scheduler.next(trial) for trial in range(3)]
    second = [scheduler.next(trial) for trial in range(3, 6)]
    assert [a.bracket for a in first + second] == [0, 0, 0, 1, 1, 1]
    for assignment in second + first:
        train(scheduler, assignment, float(assignment.trial_id))
    assert scheduler.has_work
    assert scheduler.next(6) == Assignment(0, 1, 3, 0, 1)
    assert scheduler.next(6) == Assignment(3, 1, 3, 1, 1)
    assert not scheduler.has_work
    assert scheduler.next(6) == Assignment(6, 0, 1, 2, 0)
    assert scheduler.next(None) is None


def test_failed_trials_and_infinite_losses_count_as_the_worst_of_their_rung():
    losses = [math.inf, 3.0, math.inf, 2.0, 1.0, 0.0]
    scheduler = SuccessiveHalvingScheduler(1, 9, eta=2, bracket_size=6)
    levels = reached(run(scheduler, losses, failing={5}))
    assert levels[2] == {4, 3, 1}  # half of six, though the best failed
    assert scheduler.eliminated[:2] == [0, 2]
    assert 5 not in scheduler.eliminated


def test_infinite_losses_are_not_promoted_to_fill_a_rung():
    scheduler = SuccessiveHalvingScheduler(1, 2, eta=2, bracket_size=6)
    levels = reached(run(scheduler, [math.inf] * 5 + [1.0]))
    assert levels[2] == {5}
    assert scheduler.eliminated == [0, 1, 2, 3, 4]


def test_a_bracket_without_a_finite_loss_ends():
    scheduler = SuccessiveHalvingScheduler(1, 9, bracket_size=2)
    assert {*reached(run(scheduler, [math.inf] * 4, failing={3}))} == {1}
    assert scheduler.eliminated == [0, 1, 2]


def test_ties_go_to_the_lower_id():
    levels = reached(run(SuccessiveHalvingScheduler(1, 3, bracket_size=9), [1.0] * 9))
    assert levels[3] == {0, 1, 2}


def test_closing_shrinks_the_last_bracket_while_its_trials_still_run():
    scheduler = SuccessiveHalvingScheduler(1, 9)
    running = [scheduler.next(trial) for trial in range(3)]
    train(scheduler, running[0], 1.0)
    scheduler.close()
    scheduler.close()
    train(scheduler, running[1], 0.0)
    assert not scheduler.has_work
    train(scheduler, running[2], 2.0)
    assert scheduler.next(None) == Assignment(1, 1, 3, 0, 1)


def test_a_job_without_a_report_counts_as_infinite():
    scheduler = SuccessiveHalvingScheduler(1, 3, bracket_size=2)
    silent = scheduler.next(0)
    train(scheduler, scheduler.next(1), 5.0)
    scheduler.complete(silent.trial_id)
    assert scheduler.next(None).trial_id == 1
    assert scheduler.eliminated == [0]


def test_the_default_bracket_leaves_one_trial_at_the_end():
    for high, eta in ((81, 3), (100, 3), (16, 2), (20, 2.5), (1, 3)):
        scheduler = SuccessiveHalvingScheduler(1, high, eta=eta)
        levels = reached(run(scheduler, list(range(scheduler.bracket_size))))
        assert levels[high] == {0}, (high, eta)


@pytest.mark.parametrize("size", [0, -1, 1.5, "9", True])
def test_a_wrong_bracket_size_is_refused(size):
    with pytest.raises(
        ConfigError, match=r"scheduler\.bracket_size: must be a whole number of 1 or more, got"
    ):
        SCHEDULERS.create({"name": "successive_halving", "bracket_size": size}, 1, 9)
