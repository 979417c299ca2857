"""The bundled training: its task, its metrics and its checkpoints, which resume bit for bit on the CPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlflow_hpo.packing import Trained
from mlflow_hpo.training.checkpoint import FORMAT, read_checkpoint
from mlflow_hpo.training.data import Dataset
from mlflow_hpo.training.hyperparameters import Hyperparameters
from mlflow_hpo.training.models import build_model
from mlflow_hpo.training.optimizers import Rates
from mlflow_hpo.training.pack import DeviceData, Member, Trainer
from mlflow_hpo.training.stacked import Stacked
from mlflow_hpo.training.states import from_state, judged, to_state

Array = npt.NDArray[Any]
BundledMember = Member[Hyperparameters]


def to_device(data: Dataset, device: str) -> DeviceData:
    """Copy `data` to `device`."""
    arrays = (data.X_train, data.y_train, data.X_val, data.y_val)
    # copied on the CPU, too: how products are rounded may depend on how their rows are aligned
    return DeviceData(*(torch.from_numpy(array).to(device, copy=True) for array in arrays))


class BundledPacks:
    """Trains trials of the bundled training; see `Packs`.

    Args:
        data, tensors: the same data as arrays and on a device.
        max_epochs: horizon of the learning rate's schedule, in epochs; it does not bound the training. Behind
            it the rate stays at the schedule's end.
        bf16, compiled: see `Trainer`.
    """

    def __init__(
        self,
        data: Dataset,
        tensors: DeviceData,
        *,
        max_epochs: int,
        bf16: bool = False,
        compiled: bool = False,
    ) -> None:
        self._data = data
        self._like = tensors.like
        self._horizon = max_epochs
        self._trainer = Trainer(_Task(data), tensors, bf16=bf16, compiled=compiled)

    def begin(self, params: Mapping[str, Any], seed: int, checkpoint: Path | None) -> BundledMember:
        """Return a trial as it is before its first epoch, or as a checkpoint has it.

        Raises:
            ConfigError: a hyperparameter is unknown or out of what is allowed.
            RuntimeError: the checkpoint is not one of these, or of another configuration or other data.
        """
        member = self._trainer.begin(Hyperparameters.parse(params), seed, self._horizon)
        return member if checkpoint is None else self._restored(member, read_checkpoint(checkpoint))

    def epoch(self, members: Sequence[BundledMember]) -> list[Trained[BundledMember]]:
        """Train trials for one epoch; one that diverged reports NaN as its scores, and fails."""
        return [judged(*trained) for trained in self._trainer.epoch(members)]

    def save(self, member: BundledMember, epoch: int, path: Path) -> None:
        """Write everything that a resumed training or a served model needs: tensors and plain types."""
        data = self._data
        state = {
            "format": FORMAT,
            "epoch": epoch,
            "params": asdict(member.params),
            "architecture": _architecture(data, member.params),
            "classes": list(data.classes),
            "target_mean": data.target_mean,
            "target_scale": data.target_scale,
            "preprocessor": data.preprocessor.to_json(),
            "data_digest": data.digest,
            **to_state(member, _rates(member.params)),
        }
        torch.save(state, path)

    def _restored(self, member: BundledMember, state: Mapping[str, Any]) -> BundledMember:
        if state["data_digest"] != self._data.digest or state["params"] != asdict(member.params):
            raise RuntimeError("the checkpoint belongs to another configuration or to other data")
        return from_state(member, _rates(member.params), state, self._like)


class _Task:
    """Classes or numbers, by an MLP or a CNN; see `Task`."""

    def __init__(self, data: Dataset) -> None:
        self._data = data

    def build(self, params: Hyperparameters) -> nn.Module:
        return build_model(**_architecture(self._data, params))

    def forward(self, model: nn.Module) -> Stacked:
        return Stacked(model.named_children())

    def rates(self, params: Hyperparameters) -> Rates:
        return _rates(params)

    def batch_size(self, params: Hyperparameters) -> int:
        return params.batch_size

    def losses(self, outputs: Tensor, targets: Tensor, params: Sequence[Hyperparameters]) -> Tensor:
        outputs = outputs.transpose(1, 2)  # as they lie in memory, and so their gradient, too
        if not self._data.classes:
            return (outputs[:, 0] - targets).square().mean(dim=1)
        smoothed = torch.tensor([each.label_smoothing for each in params]).to(outputs)
        logs = torch.log_softmax(outputs, dim=1)
        right = logs.gather(1, targets.unsqueeze(1)).squeeze(1).mean(dim=1)
        return -torch.lerp(right, logs.flatten(1).mean(dim=1), smoothed)

    def scores(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        actual = targets.cpu().numpy()
        if self._data.classes:
            loss = {"val_loss": float(F.cross_entropy(outputs, targets).item())}
            return loss | classification_scores(outputs.argmax(1).cpu().numpy(), actual)
        loss = {"val_loss": float(F.mse_loss(outputs[:, 0], targets).item())}
        scale, mean = self._data.target_scale, self._data.target_mean
        predicted = outputs[:, 0].cpu().double().numpy()
        return loss | regression_scores(predicted * scale + mean, actual.astype(float) * scale + mean)


def _architecture(data: Dataset, params: Hyperparameters) -> dict[str, Any]:
    return {
        "input_shape": list(data.preprocessor.shape),
        "outputs": data.outputs,
        "layers": params.layers,
        "width": params.width,
        "dropout": params.dropout,
        "normalisation": params.normalisation,
    }


def _rates(params: Hyperparameters) -> Rates:
    return Rates(
        optimizer=params.optimizer,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        momentum=params.momentum,
        schedule=params.schedule,
    )


def classification_scores(predicted: Array, actual: Array) -> dict[str, float]:
    """Return accuracy and balanced accuracy (the mean recall of the classes that occur) of class indices.

    >>> classification_scores(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    {'val_accuracy': 0.75, 'val_balanced_accuracy': 0.75}
    """
    occur = np.bincount(actual)
    right = np.bincount(actual[predicted == actual], minlength=len(occur))
    recall = right[occur > 0] / occur[occur > 0]
    return {"val_accuracy": float(right.sum() / len(actual)), "val_balanced_accuracy": float(recall.mean())}


def regression_scores(predicted: Array, actual: Array) -> dict[str, float]:
    """Return RMSE, in the target's units, and R2; R2 is NaN where all of `actual` are the same."""
    squared = float(np.square(predicted - actual).sum())
    spread = float(np.square(actual - actual.mean()).sum())
    r2 = 1 - squared / spread if spread > 0 else math.nan
    return {"val_rmse": math.sqrt(squared / len(actual)), "val_r2": r2}
