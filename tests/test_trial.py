from pathlib import Path

import numpy as np
import pytest

from mlflow_hpo import StudyError, Trial, TrialStopped


class Memory:
    """A channel that keeps everything in memory and stops after `last` epochs."""

    def __init__(self, stored=None, last=100):
        self.stored = stored
        self.last = last
        self.reports = []
        self.saved = {}

    def report(self, epoch, metrics):
        self.reports.append((epoch, dict(metrics)))
        return epoch < self.last

    def save(self, epoch, path):
        self.saved[epoch] = Path(path).read_text()

    def load(self):
        return self.stored


def make(channel, stop=5):
    return Trial({"x": 1}, stop=stop, seed=7, device="cpu", channel=channel)


def test_epochs_begin_at_one_and_end_at_stop():
    assert list(make(Memory()).epochs()) == [1, 2, 3, 4, 5]


def test_epochs_go_on_behind_the_loaded_checkpoint(tmp_path):
    trial = make(Memory(stored=(3, tmp_path / "c")))
    assert trial.load_checkpoint() == tmp_path / "c"
    assert list(trial.epochs()) == [4, 5]


def test_code_that_loads_no_checkpoint_is_trained_from_scratch(tmp_path):
    assert list(make(Memory(stored=(3, tmp_path / "c"))).epochs()) == [1, 2, 3, 4, 5]


def test_no_checkpoint_is_none():
    assert make(Memory()).load_checkpoint() is None


def test_report_passes_numbers_of_any_kind():
    channel = Memory()
    make(channel).report(1, a=1, b=np.float32(0.5), c=np.array(2.0), d=True, e=float("nan"))
    [(epoch, metrics)] = channel.reports
    assert epoch == 1
    assert [metrics[name] for name in "abcd"] == [1.0, 0.5, 2.0, 1.0]
    assert all(type(value) is float for value in metrics.values())
    assert np.isnan(metrics["e"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, {"loss": "low"}), "report: loss must be a number, got str 'low'"),
        ((1, {"loss": [1, 2]}), "report: loss must be a number, got list"),
        ((1, {}), "report: no metric given"),
    ],
)
def test_report_refuses_what_is_no_number(arguments, message):
    epoch, metrics = arguments
    with pytest.raises(StudyError, match=message):
        make(Memory()).report(epoch, **metrics)


def test_epochs_of_reports_ascend():
    trial = make(Memory())
    trial.report(2, loss=1.0)
    with pytest.raises(StudyError, match="report: epoch 2 after epoch 2"):
        trial.report(2, loss=1.0)


def test_stop_is_raised_through_careless_code():
    trial = make(Memory(last=2))
    trained = []
    with pytest.raises(TrialStopped):
        for epoch in trial.epochs():
            trained.append(epoch)
            try:
                trial.report(epoch, loss=1.0)
            except Exception:
                pytest.fail("TrialStopped must pass `except Exception`")
    assert trained == [1, 2]


def test_checkpoints_belong_to_the_present_epoch(tmp_path):
    channel = Memory()
    trial = make(channel, stop=2)
    for epoch in trial.epochs():
        (tmp_path / "c").write_text(f"state {epoch}")
        trial.save_checkpoint(str(tmp_path / "c"))
    assert channel.saved == {1: "state 1", 2: "state 2"}


def test_a_checkpoint_needs_an_epoch_and_a_file(tmp_path):
    trial = make(Memory())
    with pytest.raises(StudyError, match="is not a file"):
        trial.save_checkpoint(tmp_path)
    (tmp_path / "c").touch()
    with pytest.raises(StudyError, match="inside `for epoch in trial.epochs"):
        trial.save_checkpoint(tmp_path / "c")
