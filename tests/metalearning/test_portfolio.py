"""What is chosen from a history."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from mlflow_hpo import History, SearchSpace
from mlflow_hpo.metalearning.features import task_features
from mlflow_hpo.metalearning.portfolio import Portfolio
from mlflow_hpo.metalearning.task_model import TaskModel, _chosen
from mlflow_hpo.searchers.encoding import Encoding

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


def portfolio(records, features=None, mode="min"):
    return Portfolio(History.from_records(records, mode=mode), SPACE, features)


def test_begins_with_what_was_best_on_one_task():
    entries = portfolio(tried("only", 0.3)).entries
    assert entries[0].config["x"] == pytest.approx(0.3, abs=0.07)
    assert entries[0].config["kind"] == "a"
    assert entries[0].task == "only"
    assert entries[0].expected < 0.1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
def test_tasks_complement_each_other_whatever_their_scales(scale):
    records = tried("left", 0.1, scale=scale) + tried("right", 0.9)
    xs = [entry.config["x"] for entry in portfolio(records).entries[:3]]
    assert min(xs) == pytest.approx(0.1, abs=0.1)
    assert max(xs) == pytest.approx(0.9, abs=0.1)


def test_the_larger_of_a_value_is_the_better_one_where_the_mode_says_so():
    entries = portfolio(tried("only", 0.3, sign=-1.0), mode="max").entries
    assert entries[0].config["x"] == pytest.approx(0.3, abs=0.07)


def test_a_similar_task_counts_more():
    records = tried("small", 0.1, features={"rows": 2.0}) + tried("large", 0.9, features={"rows": 6.0})
    first = {
        rows: portfolio(records, {"rows": rows, "unknown": 3.0}).entries[0].config["x"] for rows in (2.1, 5.9)
    }
    assert first[2.1] < 0.4
    assert first[5.9] > 0.6
    weights = portfolio(records, {"rows": 2.1}).weights
    assert weights["small"] > weights["large"] > 0
    assert sum(weights.values()) == pytest.approx(1)


def test_without_common_features_all_tasks_count_the_same():
    records = tried("one", 0.1, features={"rows": 2.0}) + tried("other", 0.9, features={"columns": 3.0})
    assert set(portfolio(records, {"rows": 2.0, "columns": 3.0}).weights.values()) == {0.5}
    assert set(portfolio(records, {"words": 2.0}).weights.values()) == {0.5}


def test_tasks_without_features_count_as_much_as_the_others_do_on_average():
    records = tried("small", 0.1, features={"rows": 2.0}) + tried("large", 0.9, features={"rows": 6.0})
    plain = tried("plain", 0.5) + tried("words", 0.5, features={"words": 3.0})
    without = portfolio(records, {"rows": 2.1}).weights
    weights = portfolio(records + plain, {"rows": 2.1}).weights
    assert weights["small"] / weights["large"] == pytest.approx(without["small"] / without["large"])
    assert weights["plain"] == weights["words"] == pytest.approx(0.25)


def test_how_many_threads_there_are_changes_nothing():
    records = tried("one", 0.3, count=90) + tried("other", 0.6, count=90)

    def losses(threads):
        with threadpool_limits(threads):
            return portfolio(records).prior((1, 3, 9)).coefficients.tolist()

    assert losses(1) == losses(2) == losses(4)


def test_curves_that_were_stopped_early_count_for_what_they_promise():
    short = tried("only", 0.3, count=40, epochs=(1,))
    full = tried("only", 0.3, count=6, seed=1)

    def away(records):
        return min(abs(entry.config["x"] - 0.3) for entry in portfolio(records).entries[:3])

    assert away(short + full) < away(full)


def test_it_goes_on_with_the_next_best_and_never_repeats_itself():
    entries = portfolio(tried("only", 0.3)).entries
    configs = [tuple(entry.config.items()) for entry in entries]
    assert len(set(configs)) == len(configs) == 10  # the candidates of the task
    expected = [entry.expected for entry in entries]
    assert expected == sorted(expected)


def test_few_or_constant_values_and_an_empty_history_are_survived():
    assert portfolio([]).entries == ()
    one = {"task": "t", "config": {"x": 0.2, "kind": "a"}, "curve": [[1, 0.5]]}
    assert [entry.config for entry in portfolio([one]).entries] == [one["config"]]
    same = [one | {"config": {"x": x / 10, "kind": "b"}} for x in range(10)]
    assert len(portfolio(same).entries) >= 1
    outside = one | {"config": {"x": 20.0, "kind": "a"}}
    assert portfolio([outside]).entries == ()


def test_configurations_that_came_to_nothing_are_kept_away_from():
    """What is best after one epoch crashes in the second one."""
    rng = np.random.default_rng(0)
    records = []
    for _ in range(30):
        config = SPACE.sample(rng)
        crashed = config["x"] > 0.7
        curve = [[epoch, 1 - config["x"] + 0.3 / epoch] for epoch in (EPOCHS[:1] if crashed else EPOCHS)]
        records.append({"task": "only", "config": config, "curve": curve, "failed": crashed})
    entries = portfolio(records).entries
    assert len(entries) == 10
    assert max(entry.config["x"] for entry in entries) <= 0.7
    assert entries[0].config["x"] > 0.4
    assert portfolio([record | {"failed": True} for record in records]).entries == ()


def test_what_several_studies_tried_is_a_candidate_once():
    records = tried("one", 0.3) + tried("one", 0.3) + tried("other", 0.3)
    configs = [entry.config for entry in portfolio(records).entries]
    assert 10 < len(configs) <= 20
    assert all(config not in configs[:at] for at, config in enumerate(configs))


def test_expected_is_the_share_of_trials_that_end_better():
    records = tried("only", 0.0, count=60)
    entries = portfolio(records).entries
    assert [entry.expected for entry in entries] == pytest.approx([at / 60 for at in range(10)], abs=0.05)
    models = [TaskModel(task, SPACE, "min") for task in History.from_records(records, mode="min").tasks]
    middling = models[0].expected(np.array([[0.5, 0.25]]))[0]
    assert models[0].share_better(middling) == pytest.approx(0.5, abs=0.2)


def test_a_model_of_many_trials_sees_the_best_and_others_from_all_over():
    order = list(range(1000))
    chosen = _chosen(order, [1] * 1000)
    assert chosen[:125] == order[:125]
    assert 240 <= len(chosen) <= 250
    assert max(np.diff(chosen[125:])) < 10
    assert chosen[-1] == 999
    assert _chosen([2, 0, 1], [4, 4, 4]) == [2, 0, 1]


def test_the_same_history_gives_the_same_portfolio():
    records = tried("left", 0.1) + tried("right", 0.9)
    assert portfolio(records).entries == portfolio(records).entries


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
    assert task_features({"data.rows": 10**400, "data.task": []}) == {}


def test_the_prior_expects_what_the_models_of_the_tasks_foretell():
    records = tried("left", 0.1) + tried("right", 0.9)
    history = History.from_records(records, mode="min").within(SPACE)
    prior = Portfolio(history, SPACE).prior((1, 3, 9))
    encoding = Encoding(SPACE)
    rng = np.random.default_rng(0)
    points, active = encoding.snap(rng.random((50, 2)))
    features = encoding.features(points, active)
    for epoch in (1, 2, 9):
        expected = prior.expected(features, np.full(50, float(epoch)))
        for at, task in enumerate(history.tasks):
            foretold = history.model(task, SPACE).expected(points, epoch)
            assert expected[:, at] == pytest.approx(foretold, abs=0.2)
    assert prior.weights == pytest.approx([0.5, 0.5])
    assert portfolio([]).prior((1, 3, 9)) is None
    assert Portfolio(history, SPACE).prior((9,)).expected(features, np.full(50, 9.0)).shape == (50, 2)


def test_models_are_made_once_and_shared_by_parts_of_a_history():
    history = History.from_records(tried("left", 0.1) + tried("right", 0.9), mode="min").within(SPACE)
    left, right = history.tasks
    rest = history.without("left")
    assert [task.name for task in rest.tasks] == ["right"]
    assert rest.within(SPACE) is rest
    assert rest.model(right, SPACE) is history.model(right, SPACE)
    assert history.model(left, SPACE) is not history.model(right, SPACE)
