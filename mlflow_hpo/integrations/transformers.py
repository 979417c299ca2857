"""`TrialCallback` for the `Trainer` of Hugging Face Transformers; the extra `[transformers]`."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.integrations.epochs import TrialEpochs
from mlflow_hpo.trial import Trial

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ImportError as error:
    raise ConfigError("", "this needs the extra: pip install 'mlflow-hpo[transformers]'") from error


class TrialCallback(TrainerCallback):  # type: ignore[misc]
    """Has a Hugging Face `Trainer` train one trial.

    At the end of each epoch the trainer evaluates and saves, whatever its strategies say; what it saved
    becomes the checkpoint of the trial, and the metrics of the evaluation are reported (``eval_loss``, ...).
    Where the trial is to stop, or has come to its last epoch, the trainer ends in good order. Its
    ``num_train_epochs`` is the study's ``max_resource``, as its learning-rate schedule depends on it.

    ```python
    def train(trial):
        callback = TrialCallback(trial)
        args = TrainingArguments(folder, num_train_epochs=27, learning_rate=trial.params["learning_rate"])
        trainer = Trainer(model, args, train_dataset=data, eval_dataset=more, callbacks=[callback])
        trainer.train(resume_from_checkpoint=callback.checkpoint(folder))
    ```

    Args:
        trial: what the training function got.
        metrics: names of the metrics to report; None for all numbers of the evaluation.
    """

    def __init__(self, trial: Trial, metrics: Collection[str] | None = None) -> None:
        self._trial = trial
        self._epochs = TrialEpochs(trial, metrics)
        self._evaluated: dict[str, float] = {}
        self._due = False  # an epoch has ended, and is evaluated and saved now

    def checkpoint(self, folder: str | Path) -> str | None:
        """Return the folder, below `folder`, from which the trainer goes on; None at the first start."""
        path = self._trial.load_checkpoint()
        if path is None:
            return None
        with tarfile.open(path) as archive:
            names = {name.split("/")[0] for name in archive.getnames()}
            archive.extractall(folder, filter="data")
        return str(Path(folder) / names.pop())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Refuse what could not go on.

        Raises:
            StudyError: the trainer saves only its model.
        """
        del state, control
        if args.save_only_model:
            raise StudyError(
                "save_only_model must be false: a trial that is paused goes on with its optimizer"
            )
        self._epochs.begin()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Have the trainer evaluate and save, whatever it did at the epoch's last step."""
        del args, state
        self._due = True
        self._evaluated.clear()
        control.should_evaluate = control.should_save = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Note the metrics; they are reported once the checkpoint is there."""
        del args, state, control
        self._evaluated.update(metrics or {})

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Keep the checkpoint, report the metrics, and stop the trainer when it is time."""
        if not self._due or self._epochs.present is None:
            return  # it saves between the epochs, too
        self._due = False
        saved = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        with tempfile.TemporaryDirectory(prefix="mlflow-hpo-") as folder:
            path = Path(folder) / "trainer.tar"
            with tarfile.open(path, "w") as archive:
                archive.add(saved, saved.name)
            self._trial.save_checkpoint(path)
        logged, self._evaluated = self._evaluated, {}
        self._epochs.report(logged)
        control.should_training_stop = self._epochs.present is None
