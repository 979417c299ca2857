from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from schedulers.test_successive_halving import train

from mlflow_hpo.schedulers import SCHEDULERS, Assignment, Decision
from mlflow_hpo.schedulers.early_stopping import EarlyStopping
from mlflow_hpo.schedulers.full import FullScheduler


def stopped_at(losses, grace=1, **options):
    """Return the report at which a trial with these losses is stopped; None if it never is."""
    scheduler = EarlyStopping(FullScheduler(grace, len(losses)), **options)
    scheduler.next(0)
    for epoch, loss in enumerate(losses, 1):
        if scheduler.report(0, epoch, loss) is Decision.STOP:
            return epoch
    return None


@pytest.mark.parametrize(
    ("losses", "options", "epoch"),
    [
        ([5, 4, 3, 2, 1], {"patience": 1}, None),
        ([5, 4, 4, 4, 4], {"patience": 2}, 4),
        ([5, 4, 6, 3, 6, 6, 6], {"patience": 2}, 6),
        ([5, 4.5, 3.9, 3.4, 2.8], {"patience": 2, "min_delta": 1}, None),
        ([5, 4.9, 4.8, 4.7, 4.6], {"patience": 2, "min_delta": 1}, 3),
        ([math.inf, math.inf, math.inf, 1], {"patience": 2}, 2),
        ([math.inf, 3, 2, 1], {"patience": 2}, None),
        ([5, 5, 5, 5, 5, 5], {"patience": 1, "grace": 4}, 4),
        ([5, 5], {"patience": 1}, None),  # the end is no early stop
        ([1, 2, 9.9, 10.1, 1], {"divergence": 10}, 4),
        ([1, math.inf, 1], {"divergence": 10}, 2),
        ([math.inf, 1, 1], {"divergence": 10}, 1),
        ([-1, -0.1, 9, 11, 0], {"divergence": 10}, 4),
        ([0, 100, 1000], {"divergence": 10}, None),
        ([1, 1, 20, 1, 1], {"divergence": 10, "patience": 4}, 3),
    ],
)
def test_when_a_trial_is_stopped(losses, options, epoch):
    assert stopped_at(losses, **options) == epoch


@pytest.mark.parametrize("options", [{"patience": 2}, {"divergence": 10}])
def test_an_infeasible_report_counts_with_its_loss_and_ranks_last_inside(options):
    told = []

    class Inner(FullScheduler):
        def report(self, trial_id, resource, loss):
            told.append(loss)
            return Decision.STOP if resource == 4 else Decision.CONTINUE

    scheduler = EarlyStopping(Inner(1, 9), **options)
    scheduler.next(0)
    losses = [3.0, 2.0, 1.0, 0.5]
    decisions = [scheduler.report_infeasible(0, epoch, loss) for epoch, loss in enumerate(losses, 1)]
    assert decisions == [Decision.CONTINUE] * 3 + [Decision.STOP]
    assert told == [math.inf] * 4
    scheduler.complete(0)
    scheduler.next(1)
    assert scheduler.report_infeasible(1, 1, 1.0) is Decision.CONTINUE
    assert scheduler.report(1, 2, 11.0) is (Decision.STOP if "divergence" in options else Decision.CONTINUE)


@pytest.mark.parametrize("name", SCHEDULERS.names)
def test_a_wrapped_scheduler_decides_as_it_would_alone(name):
    def drive(scheduler):
        decisions, trials = [], 0
        while (job := scheduler.next(trials if trials < 30 else None)) is not None:
            trials += job.trial_id == trials
            decisions.append(job)
            for epoch in range(job.start + 1, job.stop + 1):
                decisions.append(scheduler.report(job.trial_id, epoch, job.trial_id * 7 % 31 + 1 / epoch))
                if decisions[-1] is Decision.STOP:
                    break
            scheduler.complete(job.trial_id)
            if trials == 30:
                scheduler.close()
        return decisions, scheduler.eliminated, scheduler.expected_resource(30)

    alone, wrapped = (SCHEDULERS.create(name, 1, 9) for _ in range(2))
    assert drive(EarlyStopping(wrapped, patience=9, divergence=1e9)) == drive(alone)


@pytest.mark.parametrize("name", ["successive_halving", "hyperband", "asha"])
def test_a_trial_that_stops_on_its_way_never_goes_on(name):
    scheduler = EarlyStopping(SCHEDULERS.create(name, 2, 6), divergence=10)
    running = [scheduler.next(trial) for trial in range(3)]
    scheduler.close()
    assert scheduler.report(0, 1, math.inf) is Decision.STOP
    scheduler.complete(0)
    train(scheduler, running[1], 1.0)
    train(scheduler, running[2], 2.0)
    assert scheduler.next(None) == Assignment(1, 2, 6, 0, 1)
    assert scheduler.next(None) is None
    train(scheduler, Assignment(1, 2, 6), 1.0)
    assert scheduler.eliminated == [2]


@given(
    st.lists(st.sampled_from([math.inf, 0.0, 1.0, 2.0, 3.0]), min_size=9, max_size=9),
    st.sets(st.integers(0, 8)),
)
def test_a_synchronous_rung_counts_the_stopped_with_their_last_loss(losses, retired):
    scheduler = SCHEDULERS.create("successive_halving", 1, 9)
    running = [scheduler.next(trial) for trial in range(9)]
    scheduler.close()
    for assignment in running:
        trial = assignment.trial_id
        scheduler.report(trial, 1, losses[trial])
        (scheduler.retire if trial in retired else scheduler.complete)(trial)
    best = sorted((loss, trial) for trial, loss in enumerate(losses) if loss < math.inf)[:3]
    expected = [trial for _, trial in best if trial not in retired]
    promoted = []
    while len(promoted) < len(expected):
        promoted.append(scheduler.next(None))
    assert [a.trial_id for a in promoted] == expected
    assert scheduler.next(None) is None
    assert {*scheduler.eliminated} == {*range(9)} - retired - {*expected}
    for assignment in promoted:
        train(scheduler, assignment, 1.0)
    assert scheduler.has_work == bool(expected)


def test_asha_counts_the_stopped_with_their_last_loss():
    scheduler = SCHEDULERS.create("asha", 1, 3)
    for trial in range(6):
        scheduler.next(trial)
    for trial in range(3):
        scheduler.report(trial, 1, float(trial))
        (scheduler.retire if trial == 0 else scheduler.complete)(trial)
    assert scheduler.next(None) is None, "the best of three was stopped"
    for trial in range(3, 6):
        scheduler.report(trial, 1, float(trial))
        scheduler.complete(trial)
    assert scheduler.next(None) == Assignment(1, 1, 3, 0, 1), "of six the second goes on"


def test_the_stopping_form_counts_the_stopped_at_the_next_rung():
    scheduler = SCHEDULERS.create("asha_stopping", 1, 9)
    for trial in range(2):
        scheduler.next(trial)
        scheduler.report(trial, 1, 1.0 - trial)
    scheduler.report(0, 2, 0.5)
    scheduler.retire(0)
    assert scheduler.report(1, 3, 0.7) is Decision.STOP


@pytest.mark.parametrize("name", SCHEDULERS.names)
def test_failures_reach_the_scheduler(name):
    scheduler = EarlyStopping(SCHEDULERS.create(name, 1, 9), divergence=2)
    for trial in range(3):
        scheduler.next(trial)
    scheduler.close()
    assert scheduler.report(0, 1, math.inf) is Decision.STOP
    scheduler.fail(0)
    scheduler.fail(1)
    scheduler.retire(2)
    assert not scheduler.has_work
    assert scheduler.next(None) is None
