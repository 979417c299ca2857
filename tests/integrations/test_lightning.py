"""The callback for PyTorch Lightning."""

import importlib

import pytest

from mlflow_hpo import Study, StudyError
from mlflow_hpo.tracking.recovery import read_recording

HALVING = {"name": "successive_halving", "eta": 3}


@pytest.fixture
def lightning():
    pytest.importorskip("lightning", reason="the extra [lightning] is not installed")
    return importlib.import_module("lightning_training")


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")


def test_a_paused_training_is_that_of_one_that_was_not(lightning, kept):
    whole, paused = kept(), kept()
    lightning.fitted(trial := whole.trial(5), lightning.TrialCallback(trial))
    for stop in (1, 3, 5):
        lightning.fitted(trial := paused.trial(stop), lightning.TrialCallback(trial))
    assert paused.reports == whole.reports
    assert list(whole.reports) == [1, 2, 3, 4, 5]
    assert whole.reports[5].keys() == {"train_loss", "val_loss"}


def test_told_to_stop_the_trainer_ends_in_good_order(lightning, kept):
    channel = kept(stop_at=2)
    trial = channel.trial(5)
    trainer = lightning.fitted(trial, lightning.TrialCallback(trial, metrics=["val_loss"]))
    assert trainer.current_epoch == 2
    assert [*map(list, channel.reports.values())] == [["val_loss"]] * 2


def test_a_trainer_that_may_not_stop_yet_is_ended(lightning, kept):
    from mlflow_hpo import TrialStopped

    trial = kept().trial(2)
    with pytest.raises(TrialStopped):
        lightning.fitted(trial, lightning.TrialCallback(trial), min_epochs=9)


def test_each_epoch_must_be_validated(lightning, kept):
    trial = kept().trial(2)
    with pytest.raises(StudyError, match="check_val_every_n_epoch must be 1, got 2"):
        lightning.fitted(trial, lightning.TrialCallback(trial), check_val_every_n_epoch=2)


def test_a_study(lightning, store):
    keys = {"metric": "val_loss", "mode": "min", "scheduler": HALVING, "max_resource": 3, "trials": 3}
    study = Study(lightning.train, lightning.SPACE, searcher="random", seed=1, **keys)
    study.run()
    trials = read_recording(study.run_id).trials
    assert sorted(trial.reached for trial in trials.values()) == [1, 1, 3]
    for trial in trials.values():
        assert store.get_run(trial.run_id).data.params["ended"] == "in good order"
