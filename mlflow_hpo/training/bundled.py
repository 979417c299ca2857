"""BundledTraining: the bundled training as one small object that a study hands to its workers."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlflow_hpo.checks import shown, whole_number
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.packing import train_alone
from mlflow_hpo.space import CategoricalParameter, SearchSpace
from mlflow_hpo.training.data import BUNDLED, Dataset, load
from mlflow_hpo.training.hyperparameters import Hyperparameters, check_names, check_value
from mlflow_hpo.training.schedules import steps_in_epoch
from mlflow_hpo.trial import Trial

if TYPE_CHECKING:
    from mlflow_hpo.training.loop import BundledPacks
    from mlflow_hpo.training.pack import DeviceData

_COMMON = frozenset({"train_loss", "val_loss", "epoch_seconds", "samples_per_second"})
METRICS = {
    "classification": _COMMON | {"val_accuracy", "val_balanced_accuracy"},
    "regression": _COMMON | {"val_rmse", "val_r2"},
}


class BundledTraining:
    """Trains an MLP or a CNN on `data`; call it with a `Trial`.

    It holds settings only, so pickling it is cheap; each process loads the data once, at its first trial, and
    keeps it for the trials after that.

    Args:
        data: name, path or s3:// URL, see `mlflow_hpo.training.data.load`.
        target: target column of a table.
        seed: of the split into training and validation rows; each trial brings its own for the rest.
        max_epochs: horizon of the learning rate schedules in epochs, usually the study's `max_resource`. A
            schedule cannot know how far a trial will be taken, so all trials follow the same one.
        bf16: mixed precision.
        compiled: use `torch.compile`. It draws dropout from generators of its own, so a training that was
            paused goes on well, but not bit for bit.

    Raises:
        ConfigError: an argument is of another type, `max_epochs` below 1, or `seed` below 0.

    >>> training = BundledTraining("wine")
    >>> training.prepare()
    >>> training.default_metric
    ('val_accuracy', 'max')
    """

    imports = ("mlflow_hpo.training.loop",)  # that processes which train need, and take seconds

    def __init__(
        self,
        data: str = "digits",
        target: str | None = None,
        *,
        seed: int = 0,
        max_epochs: int = 27,
        bf16: bool = False,
        compiled: bool = False,
    ) -> None:
        for field, text in (("data", data), ("target", target or "")):
            if not isinstance(text, str):  # they come from a file as they are
                raise ConfigError(field, f"must be text, got {shown(text)}")
        self.data = data
        self.target = target
        self.seed = whole_number("seed", seed, at_least=0)
        self.max_epochs = whole_number("max_epochs", max_epochs, at_least=1)
        self.bf16 = bf16
        self.compiled = compiled
        self._digest: str | None = None

    def prepare(self) -> None:
        """Load and check the data; call it before anything is launched.

        Raises:
            ConfigError: for `data` or `target`, see `mlflow_hpo.training.data.load`.
        """
        if self.data not in BUNDLED:  # the file may have changed since an earlier study of this process
            _dataset.cache_clear()
            _on_device.cache_clear()
        self._digest = self.dataset().digest

    def dataset(self) -> Dataset:
        """Return the data, loaded once in this process."""
        return _dataset(self.data, self.target, self.seed)

    @property
    def metrics(self) -> frozenset[str]:
        """Names of the metrics that every epoch reports; loads the data."""
        return METRICS[self.dataset().task]

    @property
    def default_metric(self) -> tuple[str, Literal["max", "min"]]:
        """The metric to optimise where the user names none, and its mode; loads the data."""
        if self.dataset().task == "classification":
            return "val_accuracy", "max"
        return "val_rmse", "min"

    def check_params(self, names: Iterable[str]) -> None:
        """Check what is to be tuned.

        Args:
            names: of the hyperparameters; or a whole `SearchSpace`, whose bounds and choices are checked too.

        Raises:
            ConfigError: for ``space.<name>``: unknown, or reaching beyond what is allowed.
        """
        try:
            check_names(names)
            for name, parameter in names.items() if isinstance(names, SearchSpace) else ():
                ends = (parameter.from_unit(0.0), parameter.from_unit(1.0))
                choices = parameter.choices if isinstance(parameter, CategoricalParameter) else ends
                for value in choices:
                    check_value(name, value)
        except ConfigError as error:
            raise error.under("space") from None

    def describe(self) -> dict[str, str]:
        """Return facts about the data, for tags or params of a run; loads the data."""
        data = self.dataset()
        facts = {
            "data": self.data,
            "data.sha256": data.digest,
            "data.form": data.form,
            "data.task": data.task,
            "data.rows": str(data.rows),
            "data.columns": str(data.columns),
            "data.features": "x".join(str(size) for size in data.preprocessor.shape),
            "data.train_rows": str(len(data.y_train)),
            "data.val_rows": str(len(data.y_val)),
        }
        if data.classes:
            facts["data.classes"] = str(len(data.classes))
        if self.target is not None:
            facts["target"] = self.target
        return facts

    def __call__(self, trial: Trial) -> None:
        """Train one trial.

        Raises:
            ConfigError: a hyperparameter is unknown or out of what is allowed.
            RuntimeError: the training diverged, or the data are not those that `prepare` saw.
        """
        train_alone(self.packs(trial.device), trial)

    def pack_key(self, params: Mapping[str, Any]) -> Hashable:
        """Return what is the same for trials that can be trained together: `layers`, `width`,
        `normalisation`, whether there is dropout, the number of steps an epoch, and whether the optimizer is
        SGD.

        Raises:
            ConfigError: a hyperparameter is unknown or out of what is allowed.
        """
        own = Hyperparameters.parse(params)
        steps = steps_in_epoch(len(self.dataset().y_train), own.batch_size)
        structure = (own.layers, own.width, own.normalisation, own.dropout > 0)
        return structure, steps, own.optimizer == "sgd"

    def packs(self, device: str) -> BundledPacks:
        """Return what trains trials of this training on a device.

        Raises:
            RuntimeError: the data are not those that `prepare` saw.
        """
        from mlflow_hpo.training.loop import (
            BundledPacks,  # torch takes seconds to import; a driver needs none
        )

        data = self.dataset()
        if self._digest not in (None, data.digest):
            raise RuntimeError(f"the data {self.data} changed since the study began")
        return BundledPacks(
            data,
            _on_device(self.data, self.target, self.seed, device),
            max_epochs=self.max_epochs,
            bf16=self.bf16,
            compiled=self.compiled,
        )

    def import_ahead(self) -> None:
        """Import torch, which takes a second."""
        import torch  # noqa: F401

    def log_model(
        self, checkpoint: Path, params: Mapping[str, Any], *, registered_model_name: str | None = None
    ) -> None:
        """Log the model of a checkpoint to the active MLflow run, as an MLflow model named "model".

        `mlflow.pyfunc.load_model` loads it anywhere: it brings its code, signature, input example and exact
        requirements. See `mlflow_hpo.training.checkpoint.Predictor.predict` for what it returns.

        Args:
            checkpoint: a checkpoint of this training.
            params: the hyperparameters that it was trained with.
            registered_model_name: also register it as the next version under this name.

        Raises:
            RuntimeError: the checkpoint cannot be read.
        """
        from mlflow_hpo.training.serving import log_model  # imports torch and MLflow

        example = self.dataset().example
        log_model(checkpoint, example, params, registered_model_name=registered_model_name)


@functools.lru_cache(maxsize=1)
def _dataset(source: str, target: str | None, seed: int) -> Dataset:
    return load(source, target, seed)


@functools.lru_cache(maxsize=1)
def _on_device(source: str, target: str | None, seed: int, device: str) -> DeviceData:
    from mlflow_hpo.training.loop import to_device

    return to_device(_dataset(source, target, seed), device)
