"""Constraints as users write them."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_hpo import ConfigError
from mlflow_hpo.constraints import Constraint, parse_constraints, violations
from mlflow_hpo.trial import is_metric_name

FORM = "must be a metric, one of <=, >=, <, > and a finite number, such as 'latency_ms <= 20', got "


@pytest.mark.parametrize(
    ("text", "constraint"),
    [
        ("latency_ms <= 20", Constraint("latency_ms", "<=", 20.0)),
        ("recall>=.9", Constraint("recall", ">=", 0.9)),
        ("  val/gap\t<  -1.5e-3 ", Constraint("val/gap", "<", -0.0015)),
        ("size in MB > +8.", Constraint("size in MB", ">", 8.0)),
        ("a: b-c.d <= 1E2", Constraint("a: b-c.d", "<=", 100.0)),
    ],
)
def test_a_constraint_is_read_as_it_is_written(text, constraint):
    assert Constraint.parse(text) == constraint
    assert Constraint.parse(str(constraint)) == constraint


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "latency_ms", "latency_ms 20", "latency_ms = 20", "latency_ms == 20", "latency_ms != 20",
        "latency_ms <=", "latency_ms <= fast", "latency_ms <= nan", "latency_ms <= inf", "latency_ms <= -inf",
        "latency_ms <= 1e999", "latency_ms <= 1_000", "latency_ms <= 0x10", "latency_ms <= ١٢", "a <= 1 ms",
        "latency_ms <= 20, recall >= 1", "1 <= latency_ms <= 20", "20 >= latency_ms", "a <== 1", "a <> 1",
        "a <= 1\n<= 2", "a << 1", "a <= 1e", "a <= .", "a <= - 1", "a ≤ 1", "__import__('os') and x",
        b"latency_ms <= 20", 20, None, True, ["latency_ms <= 20"], {"latency_ms": 20}, math.nan,
    ],
)  # fmt: skip
def test_what_is_no_constraint_is_refused_with_the_form_of_one(text):
    with pytest.raises(ConfigError) as caught:
        Constraint.parse(text)
    assert caught.value.problem == FORM + f"{text!r:.80}"


@pytest.mark.parametrize(
    "text",
    ["<= 20", "a = < 20", "a =< 20", "a; b <= 20", "'a' <= 1", "../a <= 1", "/a <= 1", "a//b <= 1", ". <= 1",
     "a\nb <= 1", "a\0 <= 1", f"{'a' * 246} <= 1", "a*b <= 1", "max(a) <= 1"],
)  # fmt: skip
def test_it_begins_with_a_name_that_can_be_reported(text):
    with pytest.raises(ConfigError, match="must begin with the name of a metric") as caught:
        Constraint.parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@given(st.text() | st.text("ab1.<>= -e\n"))
def test_any_text_is_read_or_refused(text):
    try:
        constraint = Constraint.parse(text)
    except ConfigError:
        return
    assert is_metric_name(constraint.metric)
    assert math.isfinite(constraint.bound)
    assert Constraint.parse(str(constraint)) == constraint


@pytest.mark.parametrize("text", ["<" * 10**6, "a" * 10**6, " " * 10**6 + "<", "a <= " + "9" * 10**6])
def test_a_huge_text_is_refused_at_once(text):
    with pytest.raises(ConfigError) as caught:
        Constraint.parse(text)
    assert len(str(caught.value)) < 250


@given(
    st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True),
    st.sampled_from(["<=", ">=", "<", ">"]),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_every_constraint_reads_back_as_itself(metric, operator, bound):
    constraint = Constraint(metric, operator, bound)
    assert Constraint.parse(str(constraint)) == constraint


@pytest.mark.parametrize(
    ("operator", "kept"),
    [("<=", [True, True, False]), ("<", [True, False, False]),
     (">=", [False, True, True]), (">", [False, False, True])],
)  # fmt: skip
def test_what_each_operator_lets_pass(operator, kept):
    constraint = Constraint.parse(f"a {operator} 2")
    assert [constraint.satisfied(value) for value in (1.0, 2.0, 3.0)] == kept
    assert [constraint.violation(value) == "" for value in (1.0, 2.0, 3.0)] == kept
    assert not constraint.satisfied(math.nan)
    assert constraint.satisfied(-math.inf) != constraint.satisfied(math.inf)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (31.2, "a = 31.2, must be <= 20"),
        (math.nan, "a = nan, must be <= 20"),
        (math.inf, "a = inf, must be <= 20"),
        (None, "a is not reported, must be <= 20"),
        (100 / 3, "a = 33.3333, must be <= 20"),
        (20.0000001, "a = 20.0000001, must be <= 20"),  # rounded it would keep the bound
        (20, ""),
    ],
)
def test_a_violation_in_words(value, words):
    assert Constraint.parse("a <= 20").violation(value) == words


def test_several_violations_stand_side_by_side():
    constraints = parse_constraints(["a <= 1", "b > 0", "a >= -1"])
    assert violations(constraints, {"a": 2.0, "b": 0.0}) == "a = 2, must be <= 1; b = 0, must be > 0"
    assert violations(constraints, {"a": 0.0, "b": 1.0, "c": math.nan}) == ""
    assert violations((), {"a": 0.0}) == ""


def test_a_list_is_read_in_its_order():
    assert [str(c) for c in parse_constraints(("b < 2", "a >= 1", "a <= 1"))] == ["b < 2", "a >= 1", "a <= 1"]
    assert parse_constraints([]) == ()


@pytest.mark.parametrize(
    ("texts", "field", "problem"),
    [
        ("a <= 1", "constraints", "must be a list such as ['latency_ms <= 20'], got 'a <= 1'"),
        ({"a": 1}, "constraints", "must be a list such as ['latency_ms <= 20'], got {'a': 1}"),
        (None, "constraints", "must be a list such as ['latency_ms <= 20'], got None"),
        (["a <= 1", "b"], "constraints[1]", FORM + "'b'"),
        (["a <= 1", "a <= 1"], "constraints[1]", "a has an upper bound already, a <= 1; got 'a <= 1'"),
        (["a <= 1", "b < 1", "a < 2"], "constraints[2]", "a has an upper bound already, a <= 1; got 'a < 2'"),
        (["a > 1", "a >= 0"], "constraints[1]", "a has a lower bound already, a > 1; got 'a >= 0'"),
        (["a <= 1", "a >= 2"], "constraints[1]", "must leave room beside a <= 1, got 'a >= 2'"),
        (["a >= 2", "a < 2"], "constraints[1]", "must leave room beside a >= 2, got 'a < 2'"),
        (["a > 2", "a < 2"], "constraints[1]", "must leave room beside a > 2, got 'a < 2'"),
    ],
)
def test_a_wrong_list_is_told_by_field(texts, field, problem):
    with pytest.raises(ConfigError) as caught:
        parse_constraints(texts)
    assert (caught.value.field, caught.value.problem) == (field, problem)
    assert re.fullmatch(r"[^\n]+", str(caught.value))
