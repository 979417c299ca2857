"""The training loop: epochs on one device, and checkpoints that resume bit for bit on the CPU."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlflow_hpo.training.checkpoint import CHUNK, FORMAT, read_checkpoint
from mlflow_hpo.training.data import Dataset
from mlflow_hpo.training.hyperparameters import Hyperparameters
from mlflow_hpo.training.models import build_model
from mlflow_hpo.trial import Trial

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class DeviceData:
    """A data set as tensors on one device, kept for all trials of a process."""

    X_train: Tensor
    y_train: Tensor
    X_val: Tensor
    y_val: Tensor

    @classmethod
    def of(cls, data: Dataset, device: str) -> DeviceData:
        """Copy `data` to `device`."""
        arrays = (data.X_train, data.y_train, data.X_val, data.y_val)
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))


def train(
    trial: Trial, data: Dataset, tensors: DeviceData, *, max_epochs: int, bf16: bool, compiled: bool
) -> None:
    """Train the configuration of `trial` as far as it is told to, reporting each epoch.

    Args:
        trial: what to train and whom to report to.
        data, tensors: the same data as arrays and on `trial.device`.
        max_epochs: horizon of the learning rate's schedule, in epochs; it does not bound the training. Behind
            it the rate stays at the schedule's end.
        bf16: run the forward pass in bfloat16 where that is safe (`torch.autocast`).
        compiled: `torch.compile` the model; see `BundledTraining`.

    Raises:
        ConfigError: a hyperparameter is unknown or out of what is allowed.
        RuntimeError: the training diverged (reported as NaN first), or the checkpoint is not one of these.
    """
    params = Hyperparameters.parse(trial.params)
    checkpoint = trial.load_checkpoint()
    cuda = torch.device(trial.device).type == "cuda"
    # Dropout and initialisation draw from the process-wide generators; other users of them get theirs back.
    with torch.random.fork_rng(devices=[torch.device(trial.device)] if cuda else []):
        torch.manual_seed(trial.seed)
        state = _Training(params, data, tensors, trial, max_epochs=max_epochs, bf16=bf16, compiled=compiled)
        if checkpoint is not None:
            state.restore(read_checkpoint(checkpoint))
        with tempfile.TemporaryDirectory(prefix="mlflow-hpo-training-") as folder:
            path = Path(folder) / "checkpoint.pt"
            for epoch in trial.epochs():
                metrics = state.epoch()
                if not math.isfinite(metrics["train_loss"]) or not math.isfinite(metrics["val_loss"]):
                    # Accuracies of a broken model are finite and would be believed.
                    scores = [name for name in metrics if name.startswith("val_")]
                    trial.report(epoch, **(metrics | dict.fromkeys(scores, math.nan)))
                    losses = f"train_loss {metrics['train_loss']:g}, val_loss {metrics['val_loss']:g}"
                    raise RuntimeError(f"training diverged: {losses} in epoch {epoch}")
                torch.save(state.checkpoint(epoch), path)
                trial.save_checkpoint(path)
                trial.report(epoch, **metrics)


def learning_rate_factor(schedule: str, progress: float) -> float:
    """Return what the peak learning rate is multiplied by.

    Args:
        schedule: "constant"; "cosine", from 1 to 0.01; or "onecycle", from 0.04 to 1 at 30 % and on to 0.001
            (Smith and Topin, 2018, https://arxiv.org/abs/1708.07120).
        progress: share of the horizon that is behind us; above 1 counts as 1.

    >>> [round(learning_rate_factor("onecycle", at), 3) for at in (0, 0.3, 1)]
    [0.04, 1.0, 0.001]
    """
    progress = min(progress, 1.0)
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return _cosine(1.0, 0.01, progress)
    if progress < 0.3:
        return _cosine(0.04, 1.0, progress / 0.3)
    return _cosine(1.0, 0.001, (progress - 0.3) / 0.7)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


class _Training:
    """A model in training; `checkpoint` and `restore` carry all of its state that changes."""

    def __init__(
        self,
        params: Hyperparameters,
        data: Dataset,
        tensors: DeviceData,
        trial: Trial,
        *,
        max_epochs: int,
        bf16: bool,
        compiled: bool,
    ) -> None:
        self._params = params
        self._data = data
        self._tensors = tensors
        self._device = torch.device(trial.device)
        self._bf16 = bf16
        self._horizon = max_epochs
        self._step = 0
        self._shuffle = torch.Generator().manual_seed(trial.seed)
        self._architecture: dict[str, Any] = {
            "input_shape": list(data.preprocessor.shape),
            "outputs": data.outputs,
            "layers": params.layers,
            "width": params.width,
            "dropout": params.dropout,
            "normalisation": params.normalisation,
        }
        self._model = build_model(**self._architecture).to(self._device)
        self._forward: nn.Module = torch.compile(self._model) if compiled else self._model  # type: ignore[assignment]
        self._optimizer = _optimizer(params, self._model)
        rows = len(tensors.y_train)
        steps = math.ceil(rows / params.batch_size)
        # Batch normalisation cannot train on a single row.
        self._steps = steps - 1 if steps > 1 and rows // steps < 2 else steps

    def epoch(self) -> dict[str, float]:
        """Train one epoch, validate, and return its metrics."""
        begin = time.perf_counter()
        train_loss = self._train()
        trained = time.perf_counter()
        metrics = {"train_loss": train_loss, **self._validate()}
        metrics["epoch_seconds"] = time.perf_counter() - begin
        metrics["samples_per_second"] = len(self._tensors.y_train) / max(trained - begin, 1e-9)
        return metrics

    def _train(self) -> float:
        self._forward.train()
        X, y = self._tensors.X_train, self._tensors.y_train
        order = torch.randperm(len(y), generator=self._shuffle).to(self._device)
        total = torch.zeros((), device=self._device)
        for rows in torch.tensor_split(order, self._steps):
            progress = self._step / (self._steps * self._horizon)
            factor = learning_rate_factor(self._params.schedule, progress)
            for group in self._optimizer.param_groups:
                group["lr"] = self._params.learning_rate * factor
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
                outputs = self._forward(X[rows])
            loss = self._loss(outputs.float(), y[rows], self._params.label_smoothing)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._step += 1
            total += loss.detach() * len(rows)  # stays on the device: no wait for it in each step
        return float(total.item()) / len(y)

    def _loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        if self._data.classes:
            return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)
        return F.mse_loss(outputs[:, 0], targets)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        self._forward.eval()
        X, y = self._tensors.X_val, self._tensors.y_val
        chunk = max(1, CHUNK // X[0].numel())
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            outputs = torch.cat([self._forward(part) for part in torch.split(X, chunk)]).float()
        metrics = {"val_loss": float(self._loss(outputs, y).item())}
        if self._data.classes:
            predicted, actual = outputs.argmax(1).cpu().numpy(), y.cpu().numpy()
            return metrics | classification_scores(predicted, actual)
        scale, mean = self._data.target_scale, self._data.target_mean
        predicted, actual = outputs[:, 0].cpu().double().numpy(), y.cpu().double().numpy()
        return metrics | regression_scores(predicted * scale + mean, actual * scale + mean)

    def checkpoint(self, epoch: int) -> dict[str, Any]:
        """Return everything that a resumed training or a served model needs: tensors and plain types."""
        return {
            "format": FORMAT,
            "epoch": epoch,
            "params": asdict(self._params),
            "architecture": self._architecture,
            "classes": list(self._data.classes),
            "target_mean": self._data.target_mean,
            "target_scale": self._data.target_scale,
            "preprocessor": self._data.preprocessor.to_json(),
            "data_digest": self._data.digest,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": {"step": self._step, "horizon": self._horizon},
            "rng": {
                "torch": torch.get_rng_state(),
                "shuffle": self._shuffle.get_state(),
                "cuda": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `checkpoint` was made.

        The horizon of the schedule is the checkpoint's: a longer one would make the learning rate jump.

        Raises:
            RuntimeError: the checkpoint is of other data or another configuration.
        """
        if state["data_digest"] != self._data.digest or state["params"] != asdict(self._params):
            raise RuntimeError("the checkpoint belongs to another configuration or to other data")
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._horizon = state["schedule"]["step"], state["schedule"]["horizon"]
        torch.set_rng_state(state["rng"]["torch"])
        self._shuffle.set_state(state["rng"]["shuffle"])
        if self._device.type == "cuda" and state["rng"]["cuda"] is not None:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self._device)


def _optimizer(params: Hyperparameters, model: nn.Module) -> torch.optim.Optimizer:
    rate, decay = params.learning_rate, params.weight_decay
    if params.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), rate, params.momentum, weight_decay=decay, nesterov=params.momentum > 0
        )
    kind = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    return kind(model.parameters(), rate, weight_decay=decay, fused=True)


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
