"""A recorded study as one of Optuna's, so that its tools take it; the extra `[optuna]`."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.space import CategoricalParameter, FloatParameter, IntParameter, Parameter
from mlflow_hpo.tracking.details import StudyDetails, TrialDetails

if TYPE_CHECKING:
    import optuna


def as_optuna(study: StudyDetails, storage: Any = None) -> optuna.Study:
    """Return a study as one of Optuna's.

    Trials that have a feasible value are COMPLETE with the best one, also where they were stopped early, as
    Optuna's importance and plots would leave them out otherwise; failed ones are FAIL, and those without a
    value are left out. Every curve is there as intermediate values.

    Args:
        study: what is recorded.
        storage: one of Optuna's, or its URL; None for memory. The study there is named by the run id.

    Raises:
        ConfigError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("", "this needs the extra: pip install 'mlflow-hpo[optuna]'") from error
    distributions = {name: _distribution(parameter) for name, parameter in study.space.items()}
    with quiet():
        made = optuna.create_study(
            storage=storage,
            study_name=study.summary.run_id,
            direction="maximize" if study.summary.mode == "max" else "minimize",
        )
        made.add_trials([_frozen(trial, distributions) for trial in study.trials if _counts(trial)])
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what Optuna would log in this thread: other threads may be at work with it, too."""
    mine = threading.get_ident()

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.thread != mine

    handlers = list(logging.getLogger("optuna").handlers)
    for handler in handlers:
        handler.addFilter(is_of_others)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_of_others)


def _counts(trial: TrialDetails) -> bool:
    best, status = trial.summary.best, trial.summary.status
    return status == "FAILED" or (best is not None and math.isfinite(best))


def _frozen(trial: TrialDetails, distributions: dict[str, Any]) -> Any:
    from optuna.trial import TrialState, create_trial

    summary = trial.summary
    failed = summary.status == "FAILED"
    epochs, values = trial.curve
    return create_trial(
        state=TrialState.FAIL if failed else TrialState.COMPLETE,
        value=None if failed else summary.best,
        params=summary.params,
        distributions={name: distributions[name] for name in summary.params},
        intermediate_values=dict(zip(epochs, values, strict=True)),
        user_attrs={
            "trial": summary.trial_id,
            "run_id": summary.run_id,
            "status": summary.status,
            "reason": summary.reason,
            "epochs": summary.epochs,
        },
    )


def _highest(parameter: Parameter) -> Any:
    """Return the last value: Optuna wants whole steps up to `high`."""
    return parameter.value((parameter.size or 1) - 1)


def _distribution(parameter: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match parameter:
        case CategoricalParameter():
            return CategoricalDistribution(parameter.choices)
        case FloatParameter():
            high = _highest(parameter) if parameter.step else parameter.high
            return FloatDistribution(parameter.low, high, log=parameter.log, step=parameter.step)
        case IntParameter():
            return IntDistribution(
                parameter.low, _highest(parameter), log=parameter.log, step=parameter.step or 1
            )
    raise TypeError(type(parameter).__name__)
