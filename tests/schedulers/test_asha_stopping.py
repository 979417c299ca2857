from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_hpo.schedulers import Assignment, Decision
from mlflow_hpo.schedulers.asha_stopping import AshaStoppingScheduler

losses = st.sampled_from([math.inf, *map(float, range(12))])


def train(scheduler, trial, curve):
    """Train one trial to its end or until it is stopped; return the epoch it got to."""
    assert scheduler.next(trial).stop == scheduler.max_resource
    for epoch, loss in enumerate(curve, 1):
        if scheduler.report(trial, epoch, loss) is Decision.STOP:
            break
    scheduler.complete(trial)
    return epoch


@given(st.lists(st.lists(losses, min_size=9, max_size=9), max_size=30), st.sampled_from([2, 2.5, 3]))
def test_a_trial_goes_on_if_it_is_among_the_best_so_far_at_each_rung(curves, eta):
    scheduler = AshaStoppingScheduler(1, 9, eta=eta)
    seen = {level: [] for level in scheduler.levels[:-1]}
    for trial, curve in enumerate(curves):
        expected = 9
        for level, before in seen.items():
            loss = curve[level - 1]
            before.append((loss, trial))
            if loss == math.inf or (loss, trial) not in sorted(before)[: max(1, int(len(before) // eta))]:
                expected = level
                break
        assert train(scheduler, trial, curve) == expected


def test_trials_take_turns():
    scheduler = AshaStoppingScheduler(2, 18)
    assert [scheduler.next(trial) for trial in range(3)] == [Assignment(trial, 0, 18) for trial in range(3)]
    assert [scheduler.report(trial, 1, math.inf) for trial in range(3)] == [Decision.CONTINUE] * 3, "grace"
    assert scheduler.report(0, 2, 3.0) is Decision.CONTINUE, "the first of its rung"
    assert scheduler.report(1, 2, 3.0) is Decision.STOP, "ties go to the lower id"
    assert scheduler.report(2, 2, 1.0) is Decision.CONTINUE
    assert scheduler.report(2, 6, 9.0) is Decision.CONTINUE
    assert scheduler.report(0, 6, 8.0) is Decision.CONTINUE
    assert [scheduler.report(trial, 18, math.inf) for trial in (0, 2)] == [Decision.CONTINUE] * 2
    assert scheduler.next(None) is None
    assert not scheduler.has_work
    assert scheduler.eliminated == []


def test_a_report_behind_several_rungs_counts_at_each():
    scheduler = AshaStoppingScheduler(1, 27)
    for trial in range(3):
        scheduler.next(trial)
    assert scheduler.report(0, 10, 2.0) is Decision.CONTINUE
    assert scheduler.report(1, 1, 1.0) is Decision.CONTINUE
    assert scheduler.report(1, 3, 3.0) is Decision.STOP
    assert scheduler.report(2, 4, 2.0) is Decision.STOP


def test_a_trial_that_is_first_heard_of_at_its_full_length_is_not_stopped_but_counts_at_each_rung():
    scheduler = AshaStoppingScheduler(1, 9)
    for trial in range(6):
        scheduler.next(trial)
    told = [scheduler.report(trial, 9, loss) for trial, loss in enumerate([1.0, 2.0, math.inf])]
    assert told == [Decision.CONTINUE] * 3
    assert scheduler.report(3, 1, 1.5) is Decision.STOP, "fewer than one in three of four"
    assert scheduler.report(4, 1, 0.5) is Decision.CONTINUE
    assert scheduler.report(4, 3, 1.5) is Decision.STOP
    assert scheduler.report(5, 1, 0.6) is Decision.CONTINUE, "second of six"
    assert scheduler.report(5, 3, 0.6) is Decision.CONTINUE


def test_a_failed_trial_counts_at_the_rung_it_was_on_its_way_to():
    scheduler = AshaStoppingScheduler(1, 9, eta=2)
    for trial in range(4):
        scheduler.next(trial)
    scheduler.fail(3)
    assert scheduler.report(0, 1, 1.0) is Decision.CONTINUE
    assert scheduler.report(1, 1, 2.0) is Decision.STOP
    assert scheduler.report(2, 1, 1.5) is Decision.CONTINUE, "second of four"


def test_brackets_have_rungs_of_their_own():
    scheduler = AshaStoppingScheduler(1, 9, brackets=3)
    brackets = [scheduler.next(trial).bracket for trial in range(30)]
    assert set(brackets) == {0, 1, 2}
    late = [trial for trial in range(30) if brackets[trial] == 1][:2]
    plain = [trial for trial in range(30) if brackets[trial] == 2][:2]
    assert scheduler.report(0, 1, 0.0) is Decision.CONTINUE
    for trial in late:
        assert scheduler.report(trial, 1, 5.0) is Decision.CONTINUE
    assert [scheduler.report(trial, 3, 5.0) for trial in late] == [Decision.CONTINUE, Decision.STOP]
    assert [scheduler.report(trial, 8, 9.0) for trial in plain] == [Decision.CONTINUE] * 2


@pytest.mark.parametrize("brackets", [1, 3])
def test_the_expected_resource_is_about_what_random_orders_take(brackets):
    scheduler = AshaStoppingScheduler(1, 27, brackets=brackets)
    spent = sum(train(scheduler, trial, [trial * 7919 % 1009] * 27) for trial in range(500))
    assert scheduler.expected_resource(500) == pytest.approx(spent, rel=0.3)
