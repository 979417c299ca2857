"""How trials are judged by their constraints."""

import math

from mlflow_hpo.constraints import parse_constraints
from mlflow_hpo.feasibility import Feasibility


def judge_of(*texts):
    return Feasibility(parse_constraints(texts))


def test_each_trial_is_judged_by_its_own_last_values():
    feasibility = judge_of("ms <= 20", "recall >= 0.9")
    assert feasibility.judge(0, {"ms": 10.0, "recall": 0.5}) == "recall = 0.5, must be >= 0.9"
    assert feasibility.judge(1, {"ms": 30.0, "recall": 0.95}) == "ms = 30, must be <= 20"
    assert feasibility.judge(0, {"recall": 0.95}) == ""
    assert feasibility.judge(1, {"loss": 0.1}) == "ms = 30, must be <= 20"
    assert feasibility.judge(0, {"ms": math.nan}) == "ms = nan, must be <= 20"
    assert feasibility.judge(0, {"ms": 20.0}) == ""


def test_what_was_never_reported_is_not_feasible_and_is_told_once():
    feasibility = judge_of("ms <= 20", "recall >= 0.9", "recall < 1")
    broken = feasibility.judge(0, {"loss": 1.0, "ms": 5.0})
    assert broken == "recall is not reported, must be >= 0.9; recall is not reported, must be < 1"
    told = "constraints: the training reported no 'recall', only loss, ms"
    assert feasibility.absent(0) == feasibility.newly_absent(0) == told
    feasibility.judge(1, {"loss": 1.0})
    assert feasibility.newly_absent(1) == "constraints: the training reported no 'ms', 'recall', only loss"
    feasibility.judge(2, {"loss": 1.0})
    assert feasibility.newly_absent(2) == ""
    assert feasibility.absent(2) == "constraints: the training reported no 'ms', 'recall', only loss"
    feasibility.judge(0, {"recall": 0.95})
    assert feasibility.absent(0) == ""
    assert feasibility.absent(9) == "constraints: the training reported no 'ms', 'recall', only nothing"


def test_violations_are_counted_by_constraint():
    feasibility = judge_of("ms <= 20", "recall >= 0.9", "mb < 8")
    feasibility.judge(0, {"ms": 30.0, "recall": 0.5, "mb": 1.0})
    feasibility.judge(1, {"ms": 30.0, "recall": 0.95, "mb": 1.0})
    feasibility.judge(2, {"ms": 10.0, "recall": 0.95, "mb": 1.0})
    assert feasibility.broken_by([0, 1, 2]) == "2 break ms <= 20, 1 break recall >= 0.9"


def test_without_constraints_everything_is_feasible():
    feasibility = judge_of()
    assert feasibility.judge(0, {"loss": math.nan}) == ""
    assert (feasibility.absent(0), feasibility.newly_absent(0), feasibility.broken_by([0])) == ("", "", "")
