from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from schedulers.test_successive_halving import reached, run, train

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.schedulers import SCHEDULERS, Assignment
from mlflow_hpo.schedulers.asha import AshaScheduler


class Model:
    """Algorithm 2 of the paper word for word, sorting anew at each question; and the rule for the end."""

    def __init__(self, rungs, eta):
        self.ended = [{} for _ in range(rungs)]
        self.promoted = [set() for _ in range(rungs)]
        self.eta = eta

    def get_job(self):
        for rung in reversed(range(len(self.ended) - 1)):
            ranked = sorted(self.ended[rung], key=lambda trial: (self.ended[rung][trial], trial))
            candidates = ranked[: int(len(ranked) // self.eta)]
            promotable = [
                trial
                for trial in candidates
                if trial not in self.promoted[rung] and self.ended[rung][trial] < math.inf
            ]
            if promotable:
                self.promoted[rung].add(promotable[0])
                return promotable[0], rung + 1
        return None

    def last_job(self):
        """The job after all others: of the best at the highest rung, unless a trial went to the end."""
        if self.promoted[-2]:
            return None
        for rung in reversed(range(len(self.ended) - 1)):
            waiting = [
                (loss, trial)
                for trial, loss in self.ended[rung].items()
                if trial not in self.promoted[rung] and loss < math.inf
            ]
            if waiting:
                self.promoted[rung].add(min(waiting)[1])
                return min(waiting)[1], rung + 1
        return None


losses = st.sampled_from([math.inf, *map(float, range(12))])


@given(
    st.lists(losses, min_size=1, max_size=80),
    st.sampled_from([2, 2.5, 3, 4]),
    st.randoms(),
    st.integers(1, 12),
)
def test_promotes_what_algorithm_2_promotes(values, eta, rng, workers):
    scheduler = AshaScheduler(1, 16, eta=eta)
    model = Model(len(scheduler.levels), eta)
    running, trials = [], 0
    while True:
        new = trials if trials < len(values) else None
        if new is None:
            scheduler.close()
        assignment = scheduler.next(new) if len(running) < workers else None
        if assignment is not None:
            expected = model.get_job() or ((new, 0) if new is not None or running else model.last_job())
            assert (assignment.trial_id, assignment.rung) == expected
            assert assignment.stop == scheduler.levels[assignment.rung]
            trials += assignment.trial_id == new
            running.append(assignment)
        elif running:
            ended = running.pop(rng.randrange(len(running)))
            failed = rng.random() < 0.1
            # a better loss with more epochs, in another order than before
            loss = math.inf if failed else values[ended.trial_id] * (ended.trial_id * (ended.rung + 1) % 7)
            model.ended[ended.rung][ended.trial_id] = math.inf if math.isnan(loss) else loss
            if failed:
                scheduler.fail(ended.trial_id)
            else:
                train(scheduler, ended, model.ended[ended.rung][ended.trial_id])
        else:
            break
    assert model.get_job() is None
    assert model.last_job() is None
    assert not scheduler.has_work


def test_a_third_of_each_rung_is_promoted_at_once():
    scheduler = AshaScheduler(1, 9)
    assert run(scheduler, [3.0, 2.0, 1.0, 0.0, 4.0, 5.0]) == [
        Assignment(0, 0, 1, 0, 0),
        Assignment(1, 0, 1, 0, 0),
        Assignment(2, 0, 1, 0, 0),
        Assignment(2, 1, 3, 0, 1),
        Assignment(3, 0, 1, 0, 0),
        Assignment(3, 1, 3, 0, 1),
        Assignment(4, 0, 1, 0, 0),
        Assignment(5, 0, 1, 0, 0),
        Assignment(3, 3, 9, 0, 2),
    ]
    assert scheduler.eliminated == [0, 1, 2, 4, 5]


def test_the_highest_rung_comes_first():
    scheduler = AshaScheduler(1, 4, eta=2)
    for assignment in [scheduler.next(trial) for trial in range(4)]:
        train(scheduler, assignment, float(assignment.trial_id))
    promoted = [scheduler.next(4), scheduler.next(4)]
    assert promoted == [Assignment(0, 1, 2, 0, 1), Assignment(1, 1, 2, 0, 1)]
    train(scheduler, scheduler.next(4), 0.5)
    for assignment in promoted:
        train(scheduler, assignment, float(assignment.trial_id))
    # of rung 1 trial 0 is to be promoted, and of rung 0 trial 4
    assert scheduler.next(5) == Assignment(0, 2, 4, 0, 2)
    assert scheduler.next(5) == Assignment(4, 1, 2, 0, 1)
    assert scheduler.next(5) == Assignment(5, 0, 1, 0, 0)


def test_many_workers_bring_the_best_to_the_end():
    rng = random.Random(0)
    values = [rng.random() for _ in range(200)]
    levels = reached(run(AshaScheduler(1, 27), values, workers=20))
    assert min(range(200), key=values.__getitem__) in levels[27]
    assert len(levels[1]) == 200
    assert 60 <= len(levels[3]) <= 90


def test_failed_and_infinite_trials_count_but_are_never_promoted():
    scheduler = AshaScheduler(1, 3)
    levels = reached(run(scheduler, [math.inf, 0.0, math.inf, math.inf, 7.0, 8.0], failing={1}))
    assert levels[3] == {4, 5}
    assert scheduler.eliminated == [0, 2, 3]


def test_paused_trials_wait_until_nothing_can_change():
    scheduler = AshaScheduler(1, 3)
    assignments = [scheduler.next(trial) for trial in range(3)]
    train(scheduler, assignments[0], 1.0)
    train(scheduler, assignments[1], 2.0)
    scheduler.close()
    assert scheduler.eliminated == []
    scheduler.fail(2)
    assert scheduler.eliminated == []
    promoted = scheduler.next(None)
    assert promoted == Assignment(0, 1, 3, 0, 1)
    assert scheduler.eliminated == []
    train(scheduler, promoted, 1.0)
    assert scheduler.eliminated == [1]
    assert not scheduler.has_work


def test_a_job_without_a_report_counts_as_infinite():
    scheduler = AshaScheduler(1, 3, eta=2)
    scheduler.next(0)
    scheduler.complete(0)
    train(scheduler, scheduler.next(1), 9.0)
    assert scheduler.next(None).trial_id == 1


def test_few_trials_end_with_one_that_is_fully_trained():
    scheduler = AshaScheduler(1, 81)
    assignments = run(scheduler, [float(trial) for trial in range(10)], workers=4)
    assert assignments[-2:] == [Assignment(0, 9, 27, 0, 3), Assignment(0, 27, 81, 0, 4)]
    assert Counter(a.stop for a in assignments) == {1: 10, 3: 3, 9: 1, 27: 1, 81: 1}
    assert sorted(scheduler.eliminated) == [*range(1, 10)]


def test_the_last_promotion_passes_over_trials_that_fail():
    scheduler = AshaScheduler(1, 9)
    running = [scheduler.next(trial) for trial in range(2)]
    scheduler.close()
    for assignment in running:
        train(scheduler, assignment, float(assignment.trial_id))
    assert scheduler.next(None) == Assignment(0, 1, 3, 0, 1)
    assert not scheduler.has_work
    scheduler.fail(0)
    assert scheduler.next(None) == Assignment(1, 1, 3, 0, 1)
    train(scheduler, Assignment(1, 1, 3), 1.0)
    assert scheduler.next(None) == Assignment(1, 3, 9, 0, 2)
    scheduler.fail(1)
    assert not scheduler.has_work


@given(st.integers(1, 3), st.permutations(range(60)))
def test_each_bracket_is_an_asha_of_its_own(brackets, losses):
    assignments = run(AshaScheduler(1, 9, brackets=brackets), losses)
    assert {a.bracket for a in assignments} == {*range(brackets)}
    for bracket in range(brackets):
        ours = [a for a in assignments if a.bracket == bracket]
        ids = [a.trial_id for a in ours if a.rung == 0]
        alone = run(AshaScheduler(3**bracket, 9), [losses[trial] for trial in ids])
        assert [(a.trial_id, a.start, a.stop, a.rung) for a in ours] == [
            (ids[a.trial_id], a.start, a.stop, a.rung) for a in alone
        ]


def test_brackets_get_trials_as_hyperband_gives_them():
    assignments = run(AshaScheduler(1, 81, brackets=5), range(1000))
    counts = Counter(a.bracket for a in assignments if a.rung == 0)
    weights = [81 / 5, 27 / 4, 9 / 3, 3 / 2, 1]
    for bracket, weight in enumerate(weights):
        assert abs(counts[bracket] - 1000 * weight / sum(weights)) < 1
    assert {a.start for a in assignments if a.rung == 0} == {0}
    assert {a.stop for a in assignments if a.bracket == 4} == {81}


def test_of_all_brackets_the_highest_rung_comes_first():
    scheduler = AshaScheduler(1, 4, eta=2, brackets=2)
    running = [scheduler.next(trial) for trial in range(6)]
    assert [a.bracket for a in running] == [0, 1, 0, 1, 0, 1]
    for assignment in running:
        train(scheduler, assignment, float(assignment.trial_id))
    assert scheduler.next(6) == Assignment(1, 2, 4, 1, 1)
    assert scheduler.next(6) == Assignment(0, 1, 2, 0, 1)
    assert scheduler.next(6).trial_id == 6


@pytest.mark.parametrize("brackets", [1, 2, 5])
def test_the_expected_resource_is_about_what_is_spent(brackets):
    scheduler = AshaScheduler(1, 81, brackets=brackets)
    spent = sum(a.stop - a.start for a in run(scheduler, range(400), workers=8))
    assert scheduler.expected_resource(400) == pytest.approx(spent, rel=0.3)


@pytest.mark.parametrize(
    ("brackets", "problem"),
    [
        (0, "must be a whole number of 1 or more, got 0"),
        ("2", "must be a whole number of 1 or more, got '2'"),
        (4, "must be at most 3, the number of rungs, got 4"),
    ],
)
def test_a_wrong_number_of_brackets_is_refused(brackets, problem):
    with pytest.raises(ConfigError) as raised:
        SCHEDULERS.create({"name": "asha", "brackets": brackets}, 1, 9)
    assert (raised.value.field, raised.value.problem) == ("scheduler.brackets", problem)
