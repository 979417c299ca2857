"""`HPOSearchCV`: a search as an estimator of scikit-learn."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import Ridge, SGDClassifier
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mlflow_hpo import ConfigError
from mlflow_hpo.sklearn import Fitting, HPOSearchCV, _CrossValidated

X, y = load_digits(return_X_y=True)
X, y = X[:400] / 16, y[:400]
ALPHA = {"alpha": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}}


class Recorder:
    """A trial that keeps what is reported."""

    def __init__(self, params, epochs):
        self.params, self.seed, self.reports, self._epochs = params, 7, [], epochs

    def epochs(self):
        return range(1, self._epochs + 1)

    def report(self, epoch, **metrics):
        self.reports.append((epoch, metrics))


def trained(estimator, params, epochs, resource, step=1):
    folds = list(KFold(3).split(X))
    trial = Recorder(params, epochs)
    _CrossValidated(Fitting(estimator, resource, step), X, y, folds, lambda fitted, X, y: fitted.score(X, y))(
        trial
    )
    return trial.reports


def test_a_search_by_partial_fit(store):
    search = HPOSearchCV(
        SGDClassifier(),
        ALPHA,
        resource="partial_fit",
        max_resource=3,
        cv=3,
        keys={"trials": 3, "searcher": "random"},
    )
    assert is_classifier(search)
    with pytest.raises(NotFittedError):
        search.predict(X)
    assert search.fit(X, y) is search
    assert search.n_features_in_ == 64
    assert list(search.classes_) == list(range(10))
    assert search.score(X, y) > 0.9
    assert np.array_equal(search.predict(X), search.best_estimator_.predict(X))
    assert search.best_estimator_.alpha == search.best_params_["alpha"]
    assert search.best_estimator_.t_ == 1 + search.best_resource_ * len(X)
    assert not hasattr(search, "predict_proba"), "a hinge has none"

    results = search.cv_results_
    assert len(results["params"]) == 3
    best = search.best_index_
    assert (results["rank_test_score"][best], results["mean_test_score"][best]) == (1, search.best_score_)
    assert results["param_alpha"][best] == search.best_params_["alpha"]
    [parent] = store.search_runs(["1"], "tags.`hpo.kind` = 'study'")
    assert parent.info.run_id == search.run_id_
    [trial] = store.search_runs(["1"], f"tags.`hpo.trial` = '{best}'")
    folds = [trial.data.metrics[f"score_{number}"] for number in range(3)]
    assert trial.data.metrics["score"] == pytest.approx(np.mean(folds))


def test_without_a_resource_a_score_is_that_of_cross_validation():
    [(epoch, metrics)] = trained(Ridge(), {"alpha": 0.5}, 1, None)
    expected = cross_val_score(Ridge(alpha=0.5), X, y, cv=KFold(3))
    assert epoch == 1
    assert metrics["score"] == pytest.approx(expected.mean())
    assert [metrics[f"score_{number}"] for number in range(3)] == pytest.approx(list(expected))


def test_a_parameter_grows_with_the_epochs_and_a_warm_start_changes_nothing():
    forest = RandomForestClassifier(random_state=0)
    reports = trained(forest, {"max_depth": 3}, 3, "n_estimators", step=2)
    whole = RandomForestClassifier(random_state=0, max_depth=3, n_estimators=6)
    assert [epoch for epoch, _ in reports] == [1, 2, 3]
    assert reports[-1][1]["score"] == pytest.approx(cross_val_score(whole, X, y, cv=KFold(3)).mean())


def test_iterations_that_an_estimator_would_add_are_counted_from_the_beginning():
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((8,), random_state=0))
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        reports = trained(pipeline, {}, 3, "mlpclassifier__max_iter", step=2)
        whole = clone(pipeline).set_params(mlpclassifier__max_iter=6)
        assert reports[-1][1]["score"] == pytest.approx(cross_val_score(whole, X, y, cv=KFold(3)).mean())


def test_a_matrix_of_all_pairs_is_split_by_rows_and_columns():
    machine = SVC(kernel="precomputed")
    folds = list(KFold(3).split(X))
    trial = Recorder({"C": 1.0}, 1)
    _CrossValidated(Fitting(machine, None, 1), X @ X.T, y, folds, lambda fitted, X, y: fitted.score(X, y))(
        trial
    )
    plain = cross_val_score(SVC(kernel="linear"), X, y, cv=KFold(3)).mean()
    assert trial.reports[0][1]["score"] == pytest.approx(plain)


def test_in_a_pipeline_the_step_is_warm_and_seeded():
    pipeline = make_pipeline(StandardScaler(), RandomForestClassifier())
    fitting = Fitting(pipeline, "randomforestclassifier__n_estimators", 1)
    begun = fitting.begin({"randomforestclassifier__max_depth": 2}, 7)
    forest = begun.named_steps["randomforestclassifier"]
    assert (forest.warm_start, forest.random_state, forest.max_depth) == (True, 7, 2)
    assert pipeline.named_steps["randomforestclassifier"].warm_start is False


def test_it_is_an_estimator_like_others():
    search = HPOSearchCV(Ridge(), ALPHA, cv=3, keys={"trials": 2})
    copied = clone(search)
    assert copied is not search
    assert copied.get_params()["estimator__alpha"] == 1.0
    assert copied.set_params(estimator__alpha=2.0).estimator.alpha == 2.0
    assert search.estimator.alpha == 1.0
    assert is_regressor(search)
    assert "HPOSearchCV" in repr(search)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"beta": ALPHA["alpha"]}}, "space.beta: is no parameter of Ridge"),
        ({"resource": "partial_fit"}, "resource: Ridge has no partial_fit"),
        ({"resource": "trees"}, "resource: must be partial_fit or a parameter, got 'trees'"),
        ({"resource": "alpha"}, "space.alpha: is the resource, and so cannot be searched"),
        ({"max_resource": 3}, "max_resource: must be 1 without a resource"),
        ({"keys": {"trial": 3}}, "trial: is not a known field; did you mean trials?"),
    ],
)
def test_wrong_input_is_told_before_anything_is_launched(store, changes, message):
    with pytest.raises(ConfigError) as told:
        HPOSearchCV(Ridge(), **({"space": ALPHA, "cv": 3} | changes)).fit(X, y)
    assert str(told.value).startswith(message)
    assert store.get_experiment_by_name("test") is None
