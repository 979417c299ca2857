"""Advice on rungs, by what successive halving would have found on earlier tasks."""

import json

import numpy as np
import pytest

from mlflow_hpo import History
from mlflow_hpo.metalearning.rung_advice import rung_advice
from mlflow_hpo.metalearning.warm_start import WarmStart
from mlflow_hpo.reports.suggestions import suggestions

EPOCHS = (1, 3, 9, 27, 81)


def history(*tasks, epochs=EPOCHS, mode="min"):
    """History of tasks whose losses functions of x (0 to 1, 40 trials) and the epoch tell."""
    sign = -1 if mode == "max" else 1
    records = [
        {
            "task": f"task {number}",
            "config": {"x": x / 40},
            "curve": [[epoch, sign * loss(x / 40, epoch)] for epoch in epochs],
        }
        for number, loss in enumerate(tasks)
        for x in range(40)
    ]
    return History.from_records(records, mode=mode)


def parallel(x, epoch):
    return x + 1 / epoch


def crossing(x, epoch):
    """Until epoch 27 the worst seem best."""
    return x if epoch >= 27 else 1 - x


def weights(history):
    return {task.name: 1.0 for task in history.tasks}


def advised(history, max_resource=81):
    return rung_advice(history, weights(history), max_resource)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_where_the_first_epochs_tell_everything_the_cheapest_rungs_do(mode):
    advice = advised(history(parallel, mode=mode))
    assert (advice.min_resource, advice.better, advice.correlation) == (1, 0.0, pytest.approx(1.0))
    assert advice.epochs < 0.1
    assert (advice.tasks, advice.trials) == (1, 40)


def test_where_curves_cross_trials_are_compared_after_that():
    advice = advised(history(crossing))
    assert advice.min_resource >= 27
    assert advice.better == 0.0
    assert advice.epochs > 0.33


def test_it_is_told_in_epochs_of_the_new_task():
    assert advised(history(crossing), max_resource=27).min_resource == 9
    assert advised(history(parallel), max_resource=1) is None


def test_tasks_that_weigh_more_count_more():
    both = history(parallel, crossing)
    assert rung_advice(both, {"task 0": 0.99, "task 1": 0.01}, 81).min_resource == 1
    assert rung_advice(both, {"task 0": 0.5, "task 1": 0.5}, 81).min_resource >= 27
    assert rung_advice(both, {"task 0": 1.0}, 81) == rung_advice(history(parallel), {"task 0": 1.0}, 81)


def test_no_rung_lies_before_the_first_known_epoch():
    assert advised(history(parallel, epochs=(9, 27, 81))).min_resource >= 9
    assert advised(history(parallel, epochs=(81,))) is None


def test_a_task_of_which_only_the_end_is_known_takes_no_advice_away():
    whole = history(crossing)
    records = [{"task": "plain", "config": {"x": x / 40}, "curve": [[81, x]]} for x in range(40)]
    both = History([*whole.tasks, *History.from_records(records, mode="min").tasks], mode="min")
    assert advised(both) == advised(whole) is not None


def test_what_was_stopped_or_failed_or_is_too_little_says_nothing():
    rng = np.random.default_rng(0)
    records = [
        {"task": "t", "config": {"x": rng.random()}, "curve": [[1, x], [3, x]], "failed": x % 2 == 1}
        for x in range(18)
    ]
    assert rung_advice(History.from_records(records, mode="min"), {"t": 1.0}, 3) is None
    records += [{"task": "t", "config": {"x": 2.0 + x}, "curve": [[1, 0.1]]} for x in range(9)]
    assert rung_advice(History.from_records(records, mode="min"), {"t": 1.0}, 3) is None
    records += [{"task": "t", "config": {"x": 9.0}, "curve": [[1, 0.5], [3, -1.0]]}]
    advice = rung_advice(History.from_records(records, mode="min"), {"t": 1.0}, 3)
    assert (advice.trials, advice.min_resource) == (10, 1)


def test_losses_that_never_vary_are_survived():
    advice = advised(history(lambda x, epoch: 1.0))
    assert (advice.better, advice.correlation) == (0.0, 0.0)


def test_it_is_said_and_written():
    known = history(parallel)
    lines = suggestions(WarmStart(known, None, {}, None, advised(known)), 3)
    assert lines[1].startswith(
        "rungs: min_resource 1 and eta 4 would have found what is among the best 1% with"
    )
    assert "(40 whole trials on 1 task; " in lines[1]
    written = json.loads(WarmStart(known, None, {}, None, advised(known)).to_json())
    assert written["rungs"]["min_resource"] == 1
    assert json.loads(WarmStart(known, None, {}, None).to_json())["rungs"] is None
