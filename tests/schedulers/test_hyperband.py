from __future__ import annotations

import math
import runpy
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from schedulers.test_successive_halving import reached, run

from mlflow_hpo.schedulers import SCHEDULERS, Assignment
from mlflow_hpo.schedulers.hyperband import HyperbandScheduler, hyperband_brackets

TABLE_1 = [
    [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    [(34, 3), (11, 9), (3, 27), (1, 81)],
    [(15, 9), (5, 27), (1, 81)],
    [(8, 27), (2, 81)],
    [(5, 81)],
]


def rungs(assignments):
    """Return bracket -> [(trials, epochs) of each rung]."""
    counts = Counter((a.bracket, a.rung, a.stop) for a in assignments)
    found = {}
    for bracket, _, stop in sorted(counts):
        found.setdefault(bracket, []).append((counts[bracket, len(found.get(bracket, [])), stop], stop))
    return found


@given(st.permutations(range(143)), st.integers(1, 100))
def test_81_and_3_give_table_1_of_the_paper(losses, workers):
    scheduler = HyperbandScheduler(1, 81, eta=3)
    assert scheduler.levels == (1, 3, 9, 27, 81)
    assert rungs(run(scheduler, losses, workers=workers)) == dict(enumerate(TABLE_1))


def test_the_brackets_come_again_until_the_trials_are_used_up():
    found = rungs(run(HyperbandScheduler(1, 81), range(143 + 81 + 10)))
    assert [found[bracket] for bracket in range(5)] == TABLE_1
    assert found[5] == TABLE_1[0]
    assert found[6] == [(10, 3), (3, 9), (1, 27), (1, 81)]
    assert len(found) == 7


@pytest.mark.parametrize(
    ("low", "high", "eta", "first"),
    [
        (1, 243, 3, (1, 3, 9, 27, 81, 243)),  # math.log(243, 3) < 5
        (1, 1000, 10, (1, 10, 100, 1000)),  # math.log(1000, 10) < 3
        (1, 2**20, 2, tuple(2**k for k in range(21))),
        (5, 125, 5, (5, 25, 125)),
        (2, 100, 3, (4, 11, 33, 100)),
        (1, 100, 3, (1, 4, 11, 33, 100)),
        (4, 9, 3, (9,)),
        (9, 9, 3, (9,)),
        (1, 4, 1.2, (1, 2, 3, 4)),
        (100, 121, 1.1, (100, 110, 121)),
    ],
)
def test_the_rungs_of_the_longest_bracket(low, high, eta, first):
    assert hyperband_brackets(low, high, eta)[0].levels == first


@given(st.integers(1, 50), st.integers(0, 2000), st.floats(1.2, 20))
def test_brackets_shrink_and_all_end_at_the_full_resource(low, width, eta):
    plans = hyperband_brackets(low, low + width, eta)
    assert plans[-1].levels == (low + width,)
    assert plans[-1].trials == len(plans)
    for longer, shorter in pairwise(plans):
        assert longer.levels[1:] == shorter.levels
        assert longer.levels[0] < longer.levels[1]
        assert longer.levels[0] >= low
        assert longer.trials >= shorter.trials or eta < 2
    s_max = len(plans) - 1
    for plan in plans:
        s = len(plan.levels) - 1
        exact = (s_max + 1) / (s + 1) * eta**s
        assert exact - 1e-6 * exact <= plan.trials < exact + 1 + 1e-6 * exact


@given(
    st.integers(1, 300), st.sampled_from([2, 2.5, 3, 4]), st.integers(1, 64), st.sampled_from([16, 30, 100])
)
def test_every_rung_keeps_the_floor_of_its_share_and_one_at_least(trials, eta, workers, high):
    scheduler = HyperbandScheduler(1, high, eta=eta)
    found = rungs(run(scheduler, [(7919 * i) % 1009 for i in range(trials)], workers=workers))
    started = 0
    for bracket, sizes in found.items():
        plan = scheduler.plans[bracket % len(scheduler.plans)]
        entrants = min(plan.trials, trials - started)
        started += entrants
        assert [stop for _, stop in sizes] == list(plan.levels)
        for number, _ in sizes:
            assert number == entrants
            entrants = max(1, int(entrants // eta))
    assert started == trials


def test_idle_workers_begin_the_next_bracket():
    scheduler = HyperbandScheduler(1, 9)
    handed = [scheduler.next(trial) for trial in range(18)]
    assert [a.bracket for a in handed] == [0] * 9 + [1] * 5 + [2] * 3 + [3]
    assert handed[9] == Assignment(9, 0, 3, 1, 0)
    assert handed[14] == Assignment(14, 0, 9, 2, 0)
    assert not scheduler.has_work


def test_failures_and_infinities_are_not_promoted():
    losses = [math.inf] * 8 + [5.0] + [1.0, 2.0, 3.0, math.inf, math.inf]
    levels = reached(run(HyperbandScheduler(1, 9), losses, failing={9}))
    assert levels[9] == {8, 10}


@pytest.mark.parametrize("trials", [5, 81, 100, 143, 200, 500])
def test_the_expected_resource_is_about_what_is_spent(trials):
    scheduler = HyperbandScheduler(1, 81)
    spent = sum(a.stop - a.start for a in run(scheduler, range(trials)))
    assert scheduler.expected_resource(trials) == pytest.approx(spent, rel=0.3, abs=81)


def test_it_is_made_by_name():
    scheduler = SCHEDULERS.create({"name": "hyperband", "eta": 2}, 1, 8)
    assert scheduler.levels == (1, 2, 4, 8)


def test_the_figure_of_the_guide_is_up_to_date():
    root = Path(__file__).parents[2]
    figure = runpy.run_path(str(root / "scripts" / "rungs.py"))["figure"]
    assert (root / "docs" / "images" / "rungs.svg").read_text() == figure(81, 3)
