"""Optimizer: what it decides itself, and what it refuses."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.optimizer import BestTrial, Job, Optimizer, TrialState
from mlflow_hpo.schedulers import SCHEDULERS, Assignment, Decision, Scheduler
from mlflow_hpo.schedulers.full import FullScheduler
from mlflow_hpo.searchers import SEARCHERS, Searcher
from mlflow_hpo.searchers.random import RandomSearcher
from mlflow_hpo.searchers.tpe import TpeSearcher
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.testing import SPACE

LINE = SearchSpace({"x": {"type": "float", "low": 0, "high": 1}})

NAMES = ", ".join(["auto", *SEARCHERS.names])
SCHEDULER_NAMES = ", ".join(["auto", *SCHEDULERS.names])


def optimizer(**changes):
    return Optimizer(LINE, **{"mode": "min", "searcher": "random", "max_resource": 9, "seed": 0} | changes)


class Recorder(Searcher):
    """Notes down what it is told; has three configurations."""

    def __init__(self, space, seed=0, levels=()):
        self.space = space
        self.told = []

    @property
    def exhausted(self):
        return sum(call[0] == "suggest" for call in self.told) == 3

    def suggest(self, trial_id):
        self.told.append(("suggest", trial_id))
        return {"x": 0.25}

    def adopt(self, trial_id, config):
        self.told.append(("adopt", trial_id, config))

    def report(self, trial_id, resource, loss):
        self.told.append(("report", trial_id, resource, loss))

    def complete(self, trial_id):
        self.told.append(("complete", trial_id))

    def fail(self, trial_id):
        self.told.append(("fail", trial_id))


class Stopping(FullScheduler):
    """Stops every trial at epoch 3; notes down when it is closed and which ids it is offered."""

    def __init__(self, min_resource, max_resource):
        super().__init__(min_resource, max_resource)
        self.closed = 0
        self.offered = []
        self.losses = []

    def next(self, new_trial_id):
        self.offered.append(new_trial_id)
        return super().next(new_trial_id)

    def report(self, trial_id, resource, loss):
        self.losses.append(loss)
        return Decision.STOP if resource == 3 else Decision.CONTINUE

    def close(self):
        self.closed += 1


def test_a_job_holds_all_that_training_needs():
    job = optimizer(scheduler="asha", min_resource=2, max_resource=8, points=[{"x": 1}]).ask()
    assert job == Job(trial_id=0, config={"x": 1.0}, start=0, stop=2, bracket=0, rung=0)


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_values_become_losses(mode, sign):
    scheduler, searcher = Stopping(1, 9), Recorder(LINE)
    engine = optimizer(mode=mode, scheduler=scheduler, searcher=searcher)
    for value in (0.5, math.nan, math.inf):
        engine.report(engine.ask().trial_id, 1, value)
    engine.report(0, 2, -math.inf)
    assert scheduler.losses == [sign * 0.5, math.inf, math.inf, math.inf]
    assert [call[-1] for call in searcher.told if call[0] == "report"] == scheduler.losses


def test_the_best_is_the_best_finite_value_and_the_earlier_of_equals():
    engine = optimizer(mode="max", scheduler="full")
    first, second = engine.ask(), engine.ask()
    assert engine.best is None
    engine.report(0, 1, math.inf)
    engine.report(1, 1, math.nan)
    assert engine.best is None
    engine.report(1, 2, -5)
    assert engine.best == BestTrial(1, second.config, 2, -5.0)
    engine.report(0, 2, 0.5)
    engine.report(1, 3, 0.5)
    engine.report(0, 3, 0.4)
    assert engine.best == BestTrial(0, first.config, 2, 0.5)
    engine.fail(0, "crashed")
    assert engine.best.trial_id == 0


@pytest.mark.parametrize(("mode", "better"), [("min", 0.1), ("max", 0.9)])
def test_an_infeasible_value_ranks_last_and_is_never_the_best(mode, better):
    scheduler, searcher = Stopping(1, 9), Recorder(LINE)
    engine = optimizer(mode=mode, scheduler=scheduler, searcher=searcher, goal=better)
    sign = 1 if mode == "min" else -1
    job = engine.ask()
    engine.report(0, 1, better, feasible=False)
    record = engine.trials[0]
    assert (record.value, record.feasible, record.best_value, record.best_resource) == (
        better, False, None, None
    )  # fmt: skip
    assert engine.best is None
    assert not engine.goal_reached
    engine.report(0, 2, 0.5, feasible=True)
    assert engine.best == BestTrial(0, job.config, 2, 0.5)
    assert engine.trials[0].feasible
    engine.report(0, 3, better, feasible=False)
    engine.complete(0)
    record = engine.trials[0]
    assert (record.value, record.feasible, record.best_value, record.best_resource) == (better, False, 0.5, 2)
    assert engine.best.resource == 2
    assert scheduler.losses == [math.inf, sign * 0.5, math.inf]
    assert [call[-1] for call in searcher.told if call[0] == "report"] == scheduler.losses
    engine.ask()
    engine.report(1, 1, better)
    assert engine.goal_reached


def test_a_record_is_feasible_until_a_report_says_otherwise():
    engine = optimizer(scheduler="full")
    engine.ask()
    assert engine.trials[0].feasible
    engine.report(0, 1, math.nan)
    assert engine.trials[0].feasible
    engine.report(0, 2, math.nan, feasible=np.False_)
    assert engine.trials[0].feasible is False


def test_an_infeasible_trial_is_not_promoted_though_it_is_better():
    engine = optimizer(scheduler={"name": "successive_halving", "bracket_size": 3}, trials=3)
    for trial in range(3):
        engine.ask()
        engine.report(trial, 1, float(trial), feasible=trial > 0)
        engine.complete(trial)
    assert engine.ask().trial_id == 1
    assert engine.eliminated == [2, 0], "ranked last"


def test_infeasibility_neither_diverges_nor_stands_still():
    engine = optimizer(scheduler="full", early_stopping={"patience": 3, "divergence": 10})
    for _ in range(3):
        engine.ask()
    decisions = [engine.report(0, epoch, 10.0 - epoch, feasible=False) for epoch in range(1, 10)]
    assert decisions == [Decision.CONTINUE] * 9
    assert [engine.report(1, epoch, 1.0, feasible=False) for epoch in range(1, 5)] == [
        *[Decision.CONTINUE] * 3, Decision.STOP
    ], "a plateau is one, feasible or not"  # fmt: skip
    assert engine.report(2, 1, math.nan, feasible=False) is Decision.STOP, "so is divergence"


def test_records_show_the_study():
    engine = optimizer(mode="max", scheduler="full", trials=2)
    job = engine.ask()
    record = engine.trials[0]
    assert (record.state, record.resource, record.value, record.best_value) == (
        TrialState.RUNNING,
        0,
        None,
        None,
    )
    for epoch, value in enumerate([0.2, 0.7, 0.3, math.nan], 1):
        engine.report(0, epoch, value)
    record = engine.trials[0]
    assert record.config == job.config
    assert (record.resource, record.best_value, record.best_resource) == (4, 0.7, 2)
    assert math.isnan(record.value)
    engine.fail(0, "out of memory")
    assert engine.trials[0].reason == "out of memory"
    assert engine.state(0) is TrialState.FAILED
    with pytest.raises(TypeError):
        engine.trials[0] = record


def test_states_of_a_pausing_scheduler():
    engine = optimizer(
        scheduler={"name": "successive_halving", "bracket_size": 2, "eta": 2}, max_resource=2, trials=2
    )
    for job in (engine.ask(), engine.ask()):
        engine.report(job.trial_id, 1, float(job.trial_id))
    engine.complete(0)
    assert engine.state(0) is TrialState.PAUSED
    assert list(engine.eliminated) == []
    engine.complete(1)
    assert engine.state(1) is TrialState.STOPPED
    assert list(engine.eliminated) == [1]
    assert not engine.finished
    assert (engine.ask().start, engine.state(0)) == (1, TrialState.RUNNING)
    engine.report(0, 2, 0.0)
    engine.complete(0)
    assert engine.state(0) is TrialState.FINISHED
    assert engine.finished


def test_a_stopped_trial_is_stopped_when_it_has_obeyed():
    engine = optimizer(scheduler=Stopping(1, 9))
    engine.ask()
    assert [engine.report(0, epoch, 1.0) for epoch in (1, 2, 3)] == [Decision.CONTINUE] * 2 + [Decision.STOP]
    assert engine.state(0) is TrialState.RUNNING
    with pytest.raises(ValueError, match=re.escape("trial 0 was told to stop; call complete(0)")):
        engine.report(0, 4, 1.0)
    engine.complete(0)
    assert engine.state(0) is TrialState.STOPPED


def test_no_trial_is_offered_once_they_are_used_up_and_the_scheduler_is_closed_at_once():
    scheduler = Stopping(1, 9)
    engine = optimizer(scheduler=scheduler, trials=2)
    engine.ask()
    assert scheduler.closed == 0
    engine.ask()
    assert scheduler.closed == 1
    assert engine.ask() is None
    assert scheduler.offered == [0, 1, None]
    assert not engine.finished
    engine.complete(0)
    engine.fail(1, "crashed")
    assert engine.finished


def test_an_exhausted_searcher_ends_the_study_after_the_points():
    searcher, scheduler = Recorder(LINE), Stopping(1, 9)
    engine = optimizer(searcher=searcher, scheduler=scheduler, points=[{"x": 0}, {"x": 1}])
    for trial in range(5):
        assert engine.ask().trial_id == trial
    assert engine.ask() is None
    assert scheduler.closed == 1
    engine.fail(4, "crashed")
    engine.complete(3)
    assert searcher.told == [
        ("adopt", 0, {"x": 0.0}), ("adopt", 1, {"x": 1.0}),
        ("suggest", 2), ("suggest", 3), ("suggest", 4), ("fail", 4), ("complete", 3),
    ]  # fmt: skip


def test_no_bound_never_finishes():
    engine = optimizer(scheduler="full")
    for trial in range(50):
        engine.ask()
        engine.fail(trial, "crashed")
    assert not engine.finished


def test_a_caller_cannot_change_what_the_optimizer_knows():
    point = {"x": 0.5}
    engine = optimizer(scheduler="asha", trials=1, points=[point])
    engine.ask().config["x"] = 7.0
    point["x"] = 8.0
    engine.report(0, 1, 1.0)
    engine.best.config["x"] = 9.0
    assert engine.trials[0].config == {"x": 0.5}


def test_another_seed_gives_other_configurations():
    assert optimizer(seed=1).ask().config != optimizer(seed=2).ask().config
    assert optimizer(seed=1).ask().config == optimizer(seed=1).ask().config


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.report(2, 1, 1.0), "there is no trial 2; there are 2, counted from 0"),
        (lambda e: e.report(1, 1, 1.0), "trial 1 is not running, it is failed"),
        (lambda e: e.complete(1), "trial 1 is not running, it is failed"),
        (lambda e: e.fail(1, "again"), "trial 1 is not running, it is failed"),
        (lambda e: e.complete(-1), "there is no trial -1"),
        (lambda e: e.state(9), "there is no trial 9"),
        (lambda e: e.report(0, 0, 1.0), "resource of trial 0 must be a whole number from 3 to 9, got 0"),
        (lambda e: e.report(0, 2, 1.0), "resource of trial 0 must be a whole number from 3 to 9, got 2"),
        (lambda e: e.report(0, 10, 1.0), "resource of trial 0 must be a whole number from 3 to 9, got 10"),
        (lambda e: e.report(0, 3.5, 1.0), "resource of trial 0 must be a whole number from 3 to 9, got 3.5"),
        (lambda e: e.report(0, 3, "0.5"), "value of trial 0 must be a number, got '0.5'"),
        (lambda e: e.report(0, 3, None), "value of trial 0 must be a number, got None"),
    ],
)
def test_misuse_is_refused_and_changes_nothing(call, message):
    engine = optimizer(scheduler="full")
    engine.ask()
    engine.report(0, 2, 0.5)
    engine.fail(engine.ask().trial_id, "crashed")
    before = dict(engine.trials)
    with pytest.raises(ValueError, match=re.escape(message)):
        call(engine)
    assert dict(engine.trials) == before


def test_complete_twice_is_refused():
    engine = optimizer(scheduler="full")
    engine.ask()
    engine.complete(0)
    with pytest.raises(ValueError, match="trial 0 is not running, it is finished"):
        engine.complete(0)


def test_a_promoted_trial_reports_behind_its_start():
    engine = optimizer(scheduler={"name": "successive_halving", "bracket_size": 1}, trials=1)
    engine.ask()
    engine.report(0, 1, 1.0)
    engine.complete(0)
    assert engine.ask().start == 1
    with pytest.raises(ValueError, match="from 2 to 3, got 1"):
        engine.report(0, 1, 1.0)


def test_numpy_numbers_are_taken():
    engine = optimizer(scheduler="full")
    engine.ask()
    engine.report(0, np.int64(1), np.float32(0.5))
    assert type(engine.trials[0].resource) is int
    assert type(engine.best.value) is float


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"mode": "maximum"}, "mode", "must be one of max, min, got 'maximum'; did you mean 'max'?"),
        ({"min_resource": 0}, "min_resource", "must be a whole number of 1 or more, got 0"),
        ({"max_resource": 2.5}, "max_resource", "must be a whole number of 1 or more, got 2.5"),
        (
            {"min_resource": 5, "max_resource": 4},
            "max_resource",
            "must be min_resource (5) or more, got 4",
        ),
        ({"trials": 0}, "trials", "must be a whole number of 1 or more, got 0"),
        ({"trials": True}, "trials", "must be a whole number of 1 or more, got True"),
        ({"seed": -1}, "seed", "must be a whole number of 0 or more, got -1"),
        ({"seed": None}, "seed", "must be a whole number of 0 or more, got None"),
        ({"goal": math.nan}, "goal", "must be a finite number, got nan"),
        ({"goal": "0.9"}, "goal", "must be a finite number, got '0.9'"),
        ({"early_stopping": 5}, "early_stopping", "must be a mapping of options, got 5"),
        ({"early_stopping": {}}, "early_stopping", "must set patience or divergence"),
        ({"early_stopping": {"min_delta": 1}}, "early_stopping", "must set patience or divergence"),
        ({"early_stopping": {"patients": 1}}, "early_stopping.patients",
         "is no option of early_stopping; must be one of patience, min_delta, divergence; "
         "did you mean 'patience'?"),
        ({"early_stopping": {"patience": 0}}, "early_stopping.patience",
         "must be a whole number of 1 or more, got 0"),
        ({"early_stopping": {"patience": 1, "min_delta": -1}}, "early_stopping.min_delta",
         "must be a finite number of 0 or more, got -1"),
        ({"early_stopping": {"divergence": 1}}, "early_stopping.divergence",
         "must be a finite number above 1, got 1"),
        ({"points": {"x": 1}}, "points", "must be a list of configurations, got {'x': 1}"),
        ({"points": [{"x": 1}, 5]}, "points[1]", "must map parameters to values, got 5"),
        ({"points": [{"x": 1}, {"x": 2}]}, "points[1].x", "must be within [0.0, 1.0], got 2"),
        ({"points": [{}]}, "points[0].x", "is missing"),
        ({"points": [{"y": 1}]}, "points[0].y", "is no parameter of the space (x)"),
        (
            {"scheduler": "ahsa"},
            "scheduler",
            f"must be one of {SCHEDULER_NAMES}, got 'ahsa'; did you mean 'asha'?",
        ),
        ({"searcher": "tep"}, "searcher", f"must be one of {NAMES}, got 'tep'; did you mean 'tpe'?"),
        ({"searcher": 5}, "searcher", "must be a name, a mapping with a name, or a Searcher, got 5"),
        ({"searcher": {"gamma": 1}}, "searcher.name", f"is missing; must be one of {NAMES}"),
        ({"searcher": {"name": 5}}, "searcher.name", f"must be one of {NAMES}, got 5"),
        (
            {"scheduler": {"name": "asha", "etha": 3}},
            "scheduler.etha",
            "is no option of asha; must be one of eta, brackets; did you mean 'eta'?",
        ),
        ({"scheduler": {"name": "full", "eta": 3}}, "scheduler.eta", "is no option of full; there are none"),
        ({"scheduler": {"name": "asha", "min_resource": 3}}, "scheduler.min_resource",
         "is no option of asha; must be one of eta, brackets"),
        ({"scheduler": {"name": "asha", "eta": 1}}, "scheduler.eta",
         "must be a finite number above 1, got 1"),
        ({"searcher": {"name": "tpe", "n_startup": -1}}, "searcher.n_startup",
         "must be a whole number of 0 or more, got -1"),
        ({"scheduler": FullScheduler(1, 5)}, "scheduler",
         "must be made for resources 1 .. 9, got one for 1 .. 5"),
        ({"searcher": RandomSearcher(SPACE, 0, ())}, "searcher", "must be made for the same space"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_by_field(changes, field, problem):
    with pytest.raises(ConfigError) as raised:
        optimizer(**changes)
    assert (raised.value.field, raised.value.problem) == (field, problem)


def test_the_space_must_be_one():
    with pytest.raises(ConfigError, match=r"space: must be a SearchSpace, got \{'x': 1\}"):
        Optimizer({"x": 1})


class Point:
    """An entry point of another package."""

    def __init__(self, name, loads):
        self.name = name
        self.value = f"other_package:{name}"
        self._loads = loads

    def load(self):
        if isinstance(self._loads, Exception):
            raise self._loads
        return self._loads


class Halves(FullScheduler):
    def __init__(self, min_resource, max_resource, *, share=2):
        super().__init__(min_resource, max_resource)
        self._share = share

    def next(self, new_trial_id):
        return Assignment(new_trial_id, 0, self.max_resource // self._share)


@pytest.fixture
def plugins(monkeypatch):
    points = [
        Point("halves", Halves),
        Point("broken", ImportError("no module named other")),
        Point("wrong", dict),
        Point("full", Halves),
    ]

    def entry_points(*, group, name=None):
        assert group == "mlflow_hpo.schedulers"
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr("mlflow_hpo.registry.entry_points", entry_points)


@pytest.mark.usefixtures("plugins")
def test_other_packages_bring_schedulers():
    assert optimizer(scheduler="halves").ask().stop == 4
    assert optimizer(scheduler={"name": "halves", "share": 3}).ask().stop == 3
    assert optimizer(scheduler="full").ask().stop == 9, "a built-in name cannot be taken over"


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("broken", "'broken' (other_package:broken) cannot be loaded: no module named other"),
        ("wrong", "'wrong' (other_package:wrong) must be a class derived from Scheduler"),
        (
            "halfs",
            f"must be one of {SCHEDULER_NAMES}, broken, halves, wrong, got 'halfs'; did you mean 'halves'?",
        ),
    ],
)
def test_what_other_packages_bring_is_checked(name, problem):
    with pytest.raises(ConfigError) as raised:
        optimizer(scheduler=name)
    assert (raised.value.field, raised.value.problem) == ("scheduler", problem)


def test_instances_are_taken_as_they_are():
    scheduler: Scheduler = Stopping(1, 9)
    engine = optimizer(searcher=TpeSearcher(LINE, 5, (9,)), scheduler=scheduler)
    engine.ask()
    assert scheduler.offered == [0]


@pytest.mark.parametrize(
    ("scheduler", "trials", "expected"),
    [("full", 10, 270.0), ("asha", 27, 81.0), ("successive_halving", 27, 81.0), ("asha", None, None)],
)
def test_the_expected_resource_is_that_of_the_scheduler(scheduler, trials, expected):
    space = SearchSpace({"x": {"type": "float", "low": 0, "high": 1}})
    optimizer = Optimizer(space, scheduler=scheduler, max_resource=27, trials=trials)
    assert optimizer.expected_resource == expected


@pytest.mark.parametrize(("mode", "values"), [("max", (0.5, 0.9)), ("min", (0.5, 0.1))])
def test_once_the_goal_is_reached_nothing_goes_on(mode, values):
    engine = optimizer(mode=mode, scheduler="asha", goal=values[1])
    for _ in range(4):
        engine.ask()
    engine.report(0, 1, values[0])
    engine.complete(0)
    assert engine.report(1, 1, math.inf) is Decision.CONTINUE
    engine.complete(1)
    assert not engine.goal_reached
    assert engine.report(2, 1, values[1]) is Decision.STOP, "equal is reached"
    assert engine.goal_reached
    assert engine.eliminated == [0, 1]
    assert engine.ask() is None
    assert not engine.finished
    engine.complete(2)
    engine.fail(3, "crashed")
    assert engine.finished
    assert [engine.state(trial).name for trial in range(4)] == ["STOPPED", "STOPPED", "STOPPED", "FAILED"]


def test_a_running_job_that_ends_without_a_word_after_the_goal_is_stopped():
    engine = optimizer(scheduler="asha", goal=0.0)
    for _ in range(2):
        engine.ask()
    engine.report(0, 1, -1.0)
    engine.complete(1)
    engine.complete(0)
    assert engine.finished
    assert engine.eliminated == [1]
    assert {record.state for record in engine.trials.values()} == {TrialState.STOPPED}


def test_a_goal_reached_at_the_last_epoch_leaves_the_trial_fully_trained():
    engine = optimizer(scheduler="full", goal=0.0)
    engine.ask()
    assert engine.report(0, 9, 0.0) is Decision.CONTINUE
    engine.complete(0)
    assert engine.finished
    assert engine.state(0) is TrialState.FINISHED


def test_a_trial_stopped_early_is_neither_promoted_nor_waited_for():
    engine = optimizer(scheduler="successive_halving", trials=2, early_stopping={"divergence": 2})
    jobs = [engine.ask(), engine.ask()]
    assert engine.report(0, 1, math.nan) is Decision.STOP
    engine.complete(0)
    engine.report(1, 1, 1.0)
    engine.complete(1)
    assert engine.ask().trial_id == jobs[1].trial_id == 1
    assert engine.state(0) is TrialState.STOPPED
    assert engine.eliminated == []
