"""The callback for the Trainer of Transformers."""

import importlib

import numpy as np
import pytest

from mlflow_hpo import Study, StudyError
from mlflow_hpo.integrations.epochs import TrialEpochs
from mlflow_hpo.tracking.recovery import read_recording

HALVING = {"name": "successive_halving", "eta": 3}


@pytest.fixture
def transformers():
    pytest.importorskip("transformers", reason="the extra [transformers] is not installed")
    return importlib.import_module("transformers_training")


def test_a_paused_training_is_that_of_one_that_was_not(transformers, kept, tmp_path):
    whole, paused = kept(), kept()
    trial = whole.trial(5)
    transformers.fitted(trial, transformers.TrialCallback(trial, ["eval_loss"]), str(tmp_path / "whole"))
    for stop in (1, 3, 5):
        trial = paused.trial(stop)
        callback = transformers.TrialCallback(trial, ["eval_loss"])
        transformers.fitted(trial, callback, str(tmp_path / f"until {stop}"))
    assert paused.reports == whole.reports
    assert list(whole.reports) == [1, 2, 3, 4, 5]


def test_told_to_stop_the_trainer_ends_in_good_order(transformers, kept, tmp_path):
    channel = kept(stop_at=2)
    trial = channel.trial(5)
    options = {"save_strategy": "steps", "save_steps": 3}  # saves in mid-epoch, too
    trainer = transformers.fitted(trial, transformers.TrialCallback(trial), str(tmp_path / "out"), **options)
    assert trainer.state.epoch == 2.0
    assert list(channel.reports) == list(channel.saved) == [1, 2]
    assert {"eval_loss", "eval_runtime"} <= channel.reports[2].keys()


@pytest.mark.parametrize("options", [{}, {"save_strategy": "steps", "save_steps": 4}])
def test_a_checkpoint_at_the_last_step_of_an_epoch_does_not_come_before_its_metrics(
    transformers, kept, tmp_path, options
):
    channel = kept()
    trial = channel.trial(transformers.EPOCHS)  # by default the trainer saves at its very last step
    transformers.fitted(trial, transformers.TrialCallback(trial, ["eval_loss"]), str(tmp_path), **options)
    assert list(channel.reports) == list(channel.saved) == list(range(1, transformers.EPOCHS + 1))
    assert all("eval_loss" in metrics for metrics in channel.reports.values())


def test_what_is_no_metric_is_not_reported(kept, caplog):
    channel = kept()
    epochs = TrialEpochs(channel.trial(2), None)
    epochs.begin()
    logged = {"eval_loss": np.float32(0.5), "eval_recall@5": 0.1, "eval_matrix": [[1, 0]], "eval_note": None}
    epochs.report(logged)
    epochs.report(logged)
    assert channel.reports == {1: {"eval_loss": 0.5}, 2: {"eval_loss": 0.5}}
    assert caplog.text.count("eval_matrix, eval_note, eval_recall@5") == 1


def test_the_optimizer_must_be_saved(transformers, kept, tmp_path):
    trial = kept().trial(2)
    with pytest.raises(StudyError, match="save_only_model must be false"):
        transformers.fitted(trial, transformers.TrialCallback(trial), str(tmp_path), save_only_model=True)


def test_a_study(transformers, store):
    keys = {"metric": "eval_loss", "mode": "min", "scheduler": HALVING, "max_resource": 3, "trials": 3}
    study = Study(transformers.train, transformers.SPACE, searcher="random", seed=1, **keys)
    study.run()
    trials = read_recording(study.run_id).trials
    assert sorted(trial.reached for trial in trials.values()) == [1, 1, 3]
    for trial in trials.values():
        assert store.get_run(trial.run_id).data.params["ended"] == "in good order"
