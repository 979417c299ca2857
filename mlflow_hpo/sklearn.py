"""`HPOSearchCV`: a search of a scikit-learn estimator's parameters that is an estimator itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import get_tags, indexable
from sklearn.utils.metaestimators import _safe_split, available_if
from sklearn.utils.validation import check_is_fitted

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.optimizer import BestTrial
from mlflow_hpo.seeds import trial_seed
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.study import Study
from mlflow_hpo.trial import Trial

Method = TypeVar("Method", bound=Callable[..., Any])

PARTIAL_FIT = "partial_fit"
SCORE = "score"  # the metric: the mean of the folds' scores


def _has(name: str) -> Callable[[Method], Method]:
    """Let a method be there where the estimator has it."""

    def check(search: HPOSearchCV) -> bool:
        getattr(getattr(search, "best_estimator_", search.estimator), name)
        return True

    return cast("Callable[[Method], Method]", available_if(check))


class HPOSearchCV(MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """Searches the parameters of an estimator by cross-validation; every trial is a nested MLflow run.

    The epochs by which unpromising trials are stopped are passes of ``partial_fit``, or steps of a parameter
    such as ``n_estimators``, with which an estimator that has ``warm_start`` goes on step by step; with any
    other one, such as the ``max_iter`` of most, it is fitted from the beginning at each epoch. All folds of a
    trial are trained side by side, and their mean score is reported after each epoch. Nothing is pickled
    into a store, so a trial that pauses begins again: the default scheduler stops trials and pauses none.

    Args:
        estimator: what is searched; it is cloned, never fitted itself.
        space: the search space: parameters of the estimator, as ``set_params`` takes them (``"svc__C"``).
        scoring: a name or a function, as scikit-learn has them; None for the estimator's own.
        cv: the folds, as scikit-learn has them.
        resource: "partial_fit"; the name of a parameter; or None: each trial is fitted once.
        step: how much of the parameter is an epoch.
        max_resource: epochs of a full training.
        refit: fit the best configuration to all data at the end.
        scheduler: "asha_stopping" by default, "full" without a resource.
        keys: further keys of search.yaml: ``trials``, ``workers``, ``seed``, ``experiment``, ...

    Attributes:
        best_params_, best_score_, best_resource_: the best configuration, its mean score, and its epochs.
        best_estimator_: fitted to all data, so many epochs, if `refit`.
        best_index_: its place in `cv_results_`, which has one entry a trial: ``params``, ``mean_test_score``
            (its best, NaN if it has none), ``rank_test_score``, ``resource``, ``status``, ``fit_time`` and a
            ``param_NAME`` each.
        study_: the study.
        run_id_: its parent run.
        scorer_, n_splits_, classes_, n_features_in_: as in scikit-learn's own searches.

    Raises:
        ConfigError: something of it is wrong; before anything is launched.
        StudyError: no trial succeeded, or the stores cannot be used.
    """

    def __init__(
        self,
        estimator: Any,
        space: Mapping[str, Mapping[str, Any]] | SearchSpace,
        *,
        scoring: Any = None,
        cv: Any = None,
        resource: str | None = None,
        step: int = 1,
        max_resource: int = 1,
        refit: bool = True,
        scheduler: Any = None,
        keys: Mapping[str, Any] | None = None,
    ) -> None:
        self.estimator = estimator
        self.space = space
        self.scoring = scoring
        self.cv = cv
        self.resource = resource
        self.step = step
        self.max_resource = max_resource
        self.refit = refit
        self.scheduler = scheduler
        self.keys = keys

    def fit(self, X: Any, y: Any = None) -> HPOSearchCV:
        """Search, and fit the best configuration to all data."""
        space = self.space if isinstance(self.space, SearchSpace) else SearchSpace(self.space)
        self._check(space)
        X, y = indexable(X, y)
        folds = list(check_cv(self.cv, y, classifier=is_classifier(self.estimator)).split(X, y))
        scorer = check_scoring(self.estimator, scoring=self.scoring)
        fitting = Fitting(self.estimator, self.resource, self.step)
        keys: dict[str, Any] = {"seed": 0, **(self.keys or {})}
        scheduler = self.scheduler or ("full" if self.resource is None else "asha_stopping")
        study = Study(
            _CrossValidated(fitting, X, y, folds, scorer),
            space,
            metric=SCORE,
            mode="max",
            max_resource=self.max_resource,
            scheduler=scheduler,
            **keys,
        )
        best = study.run()
        self.study_, self.run_id_ = study, study.run_id
        self.scorer_, self.n_splits_ = scorer, len(folds)
        self.best_params_, self.best_score_ = best.config, best.value
        self.best_resource_, self.best_index_ = best.resource, best.trial_id
        self.cv_results_ = _results(study, space)
        if self.refit:
            self.best_estimator_ = self._refitted(fitting, best, keys["seed"], X, y)
            for name in ("classes_", "n_features_in_", "feature_names_in_"):
                if hasattr(self.best_estimator_, name):
                    setattr(self, name, getattr(self.best_estimator_, name))
        return self

    def _check(self, space: SearchSpace) -> None:
        known = self.estimator.get_params()
        for name in space.names:
            if name not in known:
                raise ConfigError(f"space.{name}", f"is no parameter of {type(self.estimator).__name__}")
            if name == self.resource:
                raise ConfigError(f"space.{name}", "is the resource, and so cannot be searched")
        if self.resource is None:
            if self.max_resource != 1:
                raise ConfigError("max_resource", "must be 1 without a resource: a trial is fitted once")
        elif self.resource == PARTIAL_FIT:
            if not hasattr(self.estimator, PARTIAL_FIT):
                raise ConfigError("resource", f"{type(self.estimator).__name__} has no partial_fit")
        elif self.resource not in known:
            raise ConfigError("resource", f"must be partial_fit or a parameter, got {self.resource!r:.80}")

    @staticmethod
    def _refitted(fitting: Fitting, best: BestTrial, seed: int, X: Any, y: Any) -> Any:
        estimator = fitting.begin(best.config, trial_seed(seed, best.trial_id))
        classes = fitting.classes(y)
        passes = range(1, best.resource + 1) if fitting.resource == PARTIAL_FIT else [best.resource]
        for epoch in passes:
            fitting.go_on(estimator, epoch, X, y, classes)
        return estimator

    def score(self, X: Any, y: Any = None) -> float:
        """Return the score of the best estimator."""
        check_is_fitted(self, "best_estimator_")
        return float(self.scorer_(self.best_estimator_, X, y))

    @_has("predict")
    def predict(self, X: Any) -> Any:
        """Return what the best estimator predicts."""
        return self._best("predict", X)

    @_has("predict_proba")
    def predict_proba(self, X: Any) -> Any:
        """Return what probabilities the best estimator predicts."""
        return self._best("predict_proba", X)

    @_has("decision_function")
    def decision_function(self, X: Any) -> Any:
        """Return the best estimator's decision function."""
        return self._best("decision_function", X)

    @_has("transform")
    def transform(self, X: Any) -> Any:
        """Return what the best estimator makes of `X`."""
        return self._best("transform", X)

    def _best(self, method: str, X: Any) -> Any:
        check_is_fitted(self, "best_estimator_")
        return getattr(self.best_estimator_, method)(X)

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn wants to know: that of the estimator."""
        tags, inner = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.estimator_type = inner.estimator_type
        tags.classifier_tags = copy.deepcopy(inner.classifier_tags)
        tags.regressor_tags = copy.deepcopy(inner.regressor_tags)
        tags.input_tags.pairwise = inner.input_tags.pairwise
        tags.input_tags.sparse = inner.input_tags.sparse
        tags.array_api_support = False
        return tags


@dataclass(frozen=True)
class Fitting:
    """How an estimator is trained epoch by epoch.

    Attributes:
        estimator: to be cloned.
        resource, step: as of `HPOSearchCV`.
    """

    estimator: Any
    resource: str | None
    step: int

    def begin(self, params: Mapping[str, Any], seed: int) -> Any:
        """Return an unfitted estimator with these parameters; seeded if it has no seed of its own."""
        estimator = clone(self.estimator).set_params(**params)
        known = estimator.get_params()
        seeds = {
            name: seed
            for name, value in known.items()
            if name.rpartition("__")[2] == "random_state" and value is None
        }
        if self.resource not in (None, PARTIAL_FIT) and self._is_total(known):
            warm = f"{self.resource.rpartition('__')[0]}__warm_start".removeprefix("__")
            seeds |= {warm: True} if warm in known else {}
        return estimator.set_params(**seeds)

    def _is_total(self, known: Mapping[str, Any]) -> bool:
        """Whether the resource counts from the beginning where an estimator goes on; others count anew.

        With ``max_iter`` most do so many further iterations: these are fitted from the beginning each time.
        """
        owner, _, name = str(self.resource).rpartition("__")
        estimator = known[owner] if owner else self.estimator
        return name == "n_estimators" or type(estimator).__name__.startswith("HistGradientBoosting")

    def classes(self, y: Any) -> Any:
        """Return the classes that ``partial_fit`` wants to know before it has seen them, if it does."""
        return np.unique(y) if self.resource == PARTIAL_FIT and is_classifier(self.estimator) else None

    def go_on(self, estimator: Any, epoch: int, X: Any, y: Any, classes: Any) -> None:
        """Train an estimator up to the end of an epoch, from that of the one before."""
        if self.resource == PARTIAL_FIT:
            known = {} if classes is None else {"classes": classes}
            estimator.partial_fit(X, y, **known)
            return
        if self.resource is not None:
            estimator.set_params(**{self.resource: epoch * self.step})
        estimator.fit(X, y)


@dataclass(frozen=True)
class _CrossValidated:
    """The training of a study: all folds, epoch by epoch."""

    fitting: Fitting
    X: Any
    y: Any
    folds: Sequence[tuple[Any, Any]]
    scorer: Any

    def __call__(self, trial: Trial) -> None:
        """Train one trial."""
        classes = self.fitting.classes(self.y)
        estimators = [self.fitting.begin(trial.params, trial.seed) for _ in self.folds]
        for epoch in trial.epochs():
            scores = []
            for estimator, (known, unseen) in zip(estimators, self.folds, strict=True):
                self.fitting.go_on(estimator, epoch, *self._rows(known, known), classes)
                scores.append(float(self.scorer(estimator, *self._rows(unseen, known))))
            folds = {f"{SCORE}_{number}": score for number, score in enumerate(scores)}
            trial.report(
                epoch, **{SCORE: float(np.mean(scores)), f"{SCORE}_std": float(np.std(scores)), **folds}
            )

    def _rows(self, places: Any, known: Any) -> tuple[Any, Any]:
        """Return some rows; of a matrix of all pairs, with the columns of those that are trained on."""
        X, y = _safe_split(self.fitting.estimator, self.X, self.y, places, known)
        return X, y


def _results(study: Study, space: SearchSpace) -> dict[str, Any]:
    trials = study.summary().trials
    scores = np.array([np.nan if trial.best is None else trial.best for trial in trials])
    worst_last = np.where(np.isnan(scores), -np.inf, scores)
    columns = {
        f"param_{name}": np.ma.MaskedArray(
            [trial.params.get(name) for trial in trials],
            mask=[name not in trial.params for trial in trials],
            dtype=object,
        )
        for name in space.names
    }
    return {
        "params": [trial.params for trial in trials],
        **columns,
        "mean_test_score": scores,
        "rank_test_score": np.array([1 + int(np.sum(worst_last > score)) for score in worst_last]),
        "resource": np.array([trial.best_epoch for trial in trials]),
        "status": np.array([trial.status for trial in trials]),
        "fit_time": np.array([trial.seconds for trial in trials]),
    }
