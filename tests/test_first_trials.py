"""What is tried before the searcher proposes."""

import math

import pytest

from mlflow_hpo.first_trials import FirstTrials

GIVEN, TAUGHT = [{"x": -2}, {"x": -1}], [{"x": number} for number in range(5)]


def taken(first, trials, *, must=False):
    return [first.take(trial, must=must) for trial in trials]


def test_what_is_given_comes_first_and_then_what_is_taught():
    first = FirstTrials(GIVEN, TAUGHT, level=1)
    assert len(first) == 7
    assert taken(first, range(5)) == [*GIVEN, *TAUGHT[:3]]
    assert len(first) == 2


def after_six(of_taught, of_own, level=3):
    """Return the first trials after three of each have a loss at the level."""
    first = FirstTrials([], TAUGHT, level)
    assert taken(first, range(6)) == [*TAUGHT[:3], None, None, None]
    for trial, loss in enumerate([*of_taught, *of_own]):
        assert taken(first, [100 + trial]) == [None], "the searcher proposes until the losses are there"
        if loss is None:
            first.end(trial)
        else:
            first.report(trial, level - 1, -loss)  # too early to be compared
            first.report(trial, level + 1, loss)
            first.report(trial, level + 2, -loss)  # too late
            first.end(trial)
    return first


@pytest.mark.parametrize(
    ("of_taught", "of_own"),
    [
        ([0.5, 0.9, 0.9], [0.6, 0.7, 0.8]),
        ([0.5, 0.9, 0.9], [0.5, 0.7, 0.8]),
        ([0.5, None, math.inf], [0.6, 0.6, 0.6]),
        ([0.5, 0.5, 0.5], [None, None, None]),
        ([None, None, None], [None, math.inf, None]),
    ],
)
def test_what_is_taught_goes_on_where_it_is_no_worse_than_others(of_taught, of_own):
    first = after_six(of_taught, of_own)
    assert not first.misled
    assert taken(first, [6, 7, 8]) == [*TAUGHT[3:], None]
    assert len(first) == 0


@pytest.mark.parametrize(
    ("of_taught", "of_own"),
    [([0.5, 0.4, 0.9], [0.6, 0.3, 0.8]), ([None, math.inf, None], [1e9, None, None])],
)
def test_what_is_taught_is_dropped_where_others_are_better(of_taught, of_own):
    first = after_six(of_taught, of_own)
    assert first.misled
    assert len(first) == 0
    assert taken(first, [6]) == [None]


def test_where_the_searcher_has_nothing_to_propose_all_is_tried():
    first = FirstTrials(GIVEN, TAUGHT, level=1)
    assert taken(first, range(8), must=True) == [*GIVEN, *TAUGHT, None]
    for trial in range(7):
        first.report(trial, 1, trial)
    assert not first.misled


def test_a_few_are_compared_with_nothing():
    first = FirstTrials([], TAUGHT[:3], level=1)
    assert taken(first, range(6)) == [*TAUGHT[:3], None, None, None]
    for trial in range(6):
        first.report(trial, 1, -trial)
    assert not first.misled
