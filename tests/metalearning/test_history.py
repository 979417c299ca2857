"""Reading a history, and leaving out what a space does not contain."""

import math

import pytest

from mlflow_hpo import ConfigError, History, SearchSpace

SPACE = SearchSpace(
    {
        "x": {"type": "float", "low": 0, "high": 1},
        "kind": {"type": "categorical", "choices": ["round", "flat"]},
        "slope": {"type": "float", "low": 0, "high": 1, "when": {"kind": "flat"}},
    }
)
ROUND = {"x": 0.5, "kind": "round"}


def record(config=ROUND, curve=((1, 0.5), (3, 0.7)), **changes):
    return {"task": "digits", "config": config, "curve": curve} | changes


def test_tasks_and_trials_are_read():
    history = History.from_records(
        [
            record(run_id="abc"),
            record(task="wine", features={"rows": 2.3}),
            record(curve=[[9, 0.9], [1, 0.1]]),
        ]
    )

    digits, wine = history.tasks
    assert (digits.name, wine.name, wine.features) == ("digits", "wine", {"rows": 2.3})
    assert [trial.curve for trial in digits.trials] == [((1, 0.5), (3, 0.7)), ((1, 0.1), (9, 0.9))]
    assert digits.trials[0].run_id == "abc"
    assert digits.trials[0].best("max") == 0.7
    assert digits.trials[0].best("min") == 0.5
    assert history.trials == 3
    assert history


def test_a_trial_that_failed_counts_also_without_a_value():
    history = History.from_records([record(curve=[], failed=True), record(failed=True), record()])
    assert [trial.failed for trial in history.tasks[0].trials] == [True, True, False]
    assert history.tasks[0].trials[0].best("max") == -math.inf
    assert not history.skipped


def test_values_that_are_not_finite_are_left_out_and_told():
    history = History.from_records(
        [record(curve=[[1, math.nan], [2, 0.3]]), record(curve=[[1, math.inf], [2, 10**400]])]
    )

    assert [trial.curve for trial in history.tasks[0].trials] == [((2, 0.3),)]
    assert history.skipped == {"without a finite value": 1}
    assert not History.from_records([])


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"task": ""}, "history[1].task", "must be a name, got ''"),
        ({"config": [1]}, "history[1].config", "must map parameters to values"),
        ({"curve": 0.5}, "history[1].curve", "must be a list of [epoch, value], got 0.5"),
        ({"curve": [[1, 2, 3]]}, "history[1].curve[0]", "must be [epoch, value], got [1, 2, 3]"),
        ({"curve": [[0, 0.1]]}, "history[1].curve[0]", "must be a whole number of 1 or more, got 0"),
        ({"curve": [[1, "good"]]}, "history[1].curve[0]", "must have a number as its value, got 'good'"),
        ({"curve": [[1, 0.1], [1, 0.2]]}, "history[1].curve[1]", "must not repeat epoch 1"),
        ({"features": {"rows": "many"}}, "history[1].features.rows", "must be a finite number, got 'many'"),
        ({"curve": [[10**400, 1]]}, "history[1].curve[0]", "must be a whole number of 1 or more"),
        ({"run_id": 7}, "history[1].run_id", "must be text, got 7"),
        ({"failed": "no"}, "history[1].failed", "must be true or false, got 'no'"),
    ],
)
def test_a_malformed_record_is_named(changes, field, problem):
    with pytest.raises(ConfigError) as caught:
        History.from_records([record(), record(**changes)])
    assert caught.value.field == field
    assert problem in caught.value.problem


def test_a_record_without_a_key_is_named():
    with pytest.raises(ConfigError, match=r"history\[0\].curve: is missing"):
        History.from_records([{"task": "digits", "config": ROUND}])


def test_what_the_space_does_not_contain_is_left_out_and_told_why():
    history = History.from_records(
        [
            record(),
            record({"x": 0.5, "kind": "round", "depth": 3}),
            record({"kind": "round"}),
            record({"x": 7.0, "kind": "round"}),
            record({"x": 0.5, "kind": "square"}),
            record({"x": 0.5, "kind": "round", "slope": 0.1}),
            record({"x": 7.0, "kind": "round"}, task="elsewhere"),
        ]
    ).within(SPACE)

    assert [(task.name, len(task.trials)) for task in history.tasks] == [("digits", 1)]
    assert history.skipped == {
        "with a parameter that the space does not have": 1,
        "without a parameter of the space": 1,
        "with a value outside of the space": 3,
        "with a parameter that is not active": 1,
    }
    assert "3 with a value outside of the space" in repr(history)
