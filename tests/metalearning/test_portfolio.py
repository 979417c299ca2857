"""What is chosen from a history."""

import numpy as np
import pytest

from mlflow_hpo import History, SearchSpace
from mlflow_hpo.metalearning.features import task_features
from mlflow_hpo.metalearning.portfolio import choose_portfolio

SPACE = SearchSpace(
    {
        "x": {"type": "float", "low": 0, "high": 1},
        "kind": {"type": "categorical", "choices": ["a", "b"]},
    }
)
EPOCHS = (1, 3, 9)


def tried(task, best, *, features=None, count=30, seed=0, epochs=EPOCHS, sign=1.0, scale=1.0):
    """Records of random configurations on a task whose best `x` is `best`; `kind` b is worse."""
    rng = np.random.default_rng([seed, int(100 * best)])
    records = []
    for _ in range(count):
        config = SPACE.sample(rng)
        loss = (config["x"] - best) ** 2 + 0.05 * (config["kind"] == "b")
        curve = [[epoch, sign * scale * (loss + 0.3 / epoch)] for epoch in epochs]
        records.append({"task": task, "config": config, "curve": curve, "features": features or {}})
    return records


def portfolio(records, size=5, features=None, mode="min"):
    return choose_portfolio(History.from_records(records, mode=mode), SPACE, size, features)


def test_begins_with_what_was_best_on_one_task():
    entries = portfolio(tried("only", 0.3), 1).entries
    assert entries[0].config["x"] == pytest.approx(0.3, abs=0.07)
    assert entries[0].config["kind"] == "a"
    assert entries[0].task == "only"
    assert entries[0].expected < 0.1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
def test_tasks_complement_each_other_whatever_their_scales(scale):
    records = tried("left", 0.1, scale=scale) + tried("right", 0.9)
    xs = sorted(entry.config["x"] for entry in portfolio(records, 2).entries)
    assert xs[0] == pytest.approx(0.1, abs=0.1)
    assert xs[1] == pytest.approx(0.9, abs=0.1)


def test_the_larger_of_a_value_is_the_better_one_where_the_mode_says_so():
    entries = portfolio(tried("only", 0.3, sign=-1.0), 1, mode="max").entries
    assert entries[0].config["x"] == pytest.approx(0.3, abs=0.07)


def test_a_similar_task_counts_more():
    records = tried("small", 0.1, features={"rows": 2.0}) + tried("large", 0.9, features={"rows": 6.0})
    first = {
        rows: portfolio(records, 1, {"rows": rows, "unknown": 3.0}).entries[0].config["x"]
        for rows in (2.1, 5.9)
    }
    assert first[2.1] == pytest.approx(0.1, abs=0.1)
    assert first[5.9] == pytest.approx(0.9, abs=0.1)
    weights = portfolio(records, 1, {"rows": 2.1}).weights
    assert weights["small"] > weights["large"] > 0
    assert sum(weights.values()) == pytest.approx(1)


def test_without_common_features_all_tasks_count_the_same():
    records = tried("one", 0.1, features={"rows": 2.0}) + tried("other", 0.9)
    assert set(portfolio(records, 2, {"rows": 2.0}).weights.values()) == {0.5}


def test_curves_that_were_stopped_early_count_for_what_they_promise():
    short = tried("only", 0.3, count=40, epochs=(1,))
    full = tried("only", 0.3, count=6, seed=1)

    def away(records):
        return min(abs(entry.config["x"] - 0.3) for entry in portfolio(records, 3).entries)

    assert away(short + full) < away(full)


def test_it_goes_on_with_the_next_best_and_never_repeats_itself():
    entries = portfolio(tried("only", 0.3), 100).entries
    configs = [tuple(entry.config.items()) for entry in entries]
    assert len(set(configs)) == len(configs) == 10  # the candidates of the task
    expected = [entry.expected for entry in entries]
    assert expected == sorted(expected)


def test_few_or_constant_values_and_an_empty_history_are_survived():
    assert portfolio([]).entries == ()
    assert portfolio(tried("only", 0.3), 0).entries == ()
    one = {"task": "t", "config": {"x": 0.2, "kind": "a"}, "curve": [[1, 0.5]]}
    assert [entry.config for entry in portfolio([one]).entries] == [one["config"]]
    same = [one | {"config": {"x": x / 10, "kind": "b"}} for x in range(10)]
    assert len(portfolio(same).entries) >= 1
    outside = one | {"config": {"x": 20.0, "kind": "a"}}
    assert portfolio([outside]).entries == ()


def test_the_same_history_gives_the_same_portfolio():
    records = tried("left", 0.1) + tried("right", 0.9)
    assert portfolio(records) == portfolio(records)


def test_features_of_facts():
    facts = {
        "data.rows": "99",
        "data.columns": "x",
        "data.classes": "9",
        "data.task": "regression",
        "other": "1",
    }
    assert task_features(facts) == {"rows": 2.0, "classes": 1.0, "classification": 0.0}
    assert task_features({"data.rows": "-1", "data.columns": "nan"}) == {}
