"""`TrialCallback` for PyTorch Lightning; the extra `[lightning]`."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.integrations.epochs import TrialEpochs
from mlflow_hpo.trial import Trial, TrialStopped

try:
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ConfigError("", "this needs the extra: pip install 'mlflow-hpo[lightning]'") from error


class TrialCallback(Callback):  # type: ignore[misc]
    """Has a Lightning `Trainer` train one trial.

    At the end of each epoch, once it is validated, the trainer's checkpoint becomes that of the trial and the
    metrics are reported; where the trial is to stop, or has come to its last epoch, the trainer ends in good
    order. Give the trainer no smaller ``max_epochs`` than the study's ``max_resource``, and let it go on
    where the trial was paused:

    ```python
    def train(trial):
        trainer = Trainer(max_epochs=-1, callbacks=[TrialCallback(trial)], enable_checkpointing=False)
        trainer.fit(Net(**trial.params), data, ckpt_path=trial.load_checkpoint())
    ```

    Lightning's checkpoints hold the model, the optimizers and their schedules. The state of torch's random
    numbers is added, so that a trial that was paused is trained as one that was not.

    Args:
        trial: what the training function got.
        metrics: names of the logged metrics to report; None for all.
    """

    def __init__(self, trial: Trial, metrics: Collection[str] | None = None) -> None:
        self._trial = trial
        self._epochs = TrialEpochs(trial, metrics)
        self._random: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what would leave epochs without metrics, and go on with the random numbers.

        The trainer's sanity check leaves them as they are, and then the order of the data is drawn.

        Raises:
            StudyError: not each epoch is validated.
        """
        del pl_module
        if trainer.enable_validation and trainer.check_val_every_n_epoch != 1:
            raise StudyError(
                f"check_val_every_n_epoch must be 1, got {trainer.check_val_every_n_epoch}: "
                "a trial reports each of its epochs"
            )
        self._epochs.begin()
        if self._random is not None:
            torch.set_rng_state(self._random["cpu"])
            for device, state in enumerate(self._random["cuda"]):
                torch.cuda.set_rng_state(state, device)
            self._random = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a training that its trainer does not, because of its ``min_epochs`` or ``min_steps``."""
        del trainer, pl_module
        if self._epochs.present is None:
            raise TrialStopped

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the checkpoint, report the metrics, and stop the trainer when it is time."""
        del pl_module
        if self._epochs.present is None:
            return
        with tempfile.TemporaryDirectory(prefix="mlflow-hpo-") as folder:
            path = Path(folder) / "trainer.ckpt"
            trainer.save_checkpoint(path)
            self._trial.save_checkpoint(path)
        self._epochs.report(trainer.callback_metrics)
        if self._epochs.present is None:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into the trainer's checkpoint: the state of torch's random numbers."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take that back."""
        self._random = state_dict
