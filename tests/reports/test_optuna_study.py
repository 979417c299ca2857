"""A recorded study as one of Optuna's."""

import sys

import pytest
from recorded import SPACE, recorded

from mlflow_hpo import ConfigError
from mlflow_hpo.reports.optuna_study import as_optuna

optuna = pytest.importorskip("optuna")

STEPS = {
    "float": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.3},
    "int": {"type": "int", "low": 1, "high": 10, "step": 4},
    "none": {"type": "categorical", "choices": [None, True, 1.5, "text"]},
}


def test_trials_are_what_they_were():
    study = recorded(40, space=SPACE | STEPS)
    made = as_optuna(study)

    assert made.direction is optuna.study.StudyDirection.MAXIMIZE
    assert len(made.trials) == 40
    for trial, frozen in zip(study.trials, made.trials, strict=True):
        assert frozen.params == trial.summary.params
        assert frozen.user_attrs["run_id"] == trial.summary.run_id
        assert frozen.intermediate_values == dict(zip(*trial.curve, strict=True))
        failed = trial.summary.status == "FAILED"
        assert frozen.state is (optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE)
        assert frozen.value == (None if failed else trial.summary.best)


def test_a_storage_keeps_it(tmp_path):
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = recorded(12)
    as_optuna(study, storage)
    kept = optuna.load_study(study_name=study.summary.run_id, storage=storage)
    assert kept.best_value == as_optuna(study).best_value
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        as_optuna(study, storage)


def test_what_optuna_would_log_is_held_back(caplog):
    as_optuna(recorded(3))
    assert caplog.records == []


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"mlflow-hpo\[optuna\]"):
        as_optuna(recorded(3))
