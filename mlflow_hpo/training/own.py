"""What trains the trials of a `PackedTrainable`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mlflow_hpo.packing import Trained
from mlflow_hpo.training.checkpoint import load_plain
from mlflow_hpo.training.hyperparameters import check_value
from mlflow_hpo.training.optimizers import Rates
from mlflow_hpo.training.pack import DeviceData, Member, Trainer
from mlflow_hpo.training.states import from_state, judged, to_state
from mlflow_hpo.training.vmapped import Vmapped

if TYPE_CHECKING:
    from mlflow_hpo.training.packed import PackedTrainable

BATCH_SIZE = 64
Params = Mapping[str, Any]


class OwnPacks:
    """Trains trials of a `PackedTrainable`; see `Packs`.

    Args:
        training: what is trained.
        device: where.
    """

    def __init__(self, training: PackedTrainable, device: str) -> None:
        data = DeviceData(*(torch.as_tensor(part).to(device) for part in training.data()))
        self._like = data.like
        self._horizon = training.max_epochs
        self._trainer: Trainer[Params] = Trainer(_Task(training), data)

    def begin(self, params: Params, seed: int, checkpoint: Path | None) -> Member[Params]:
        """Return a trial as it is before its first epoch, or as a checkpoint has it.

        Raises:
            ConfigError: a parameter has a value that is not allowed.
            RuntimeError: the checkpoint cannot be read, or is of another configuration.
        """
        rates = rates_of(params)
        member = self._trainer.begin(dict(params), seed, self._horizon)
        if checkpoint is None:
            return member
        state = load_plain(checkpoint)
        if state.get("params") != dict(params):
            raise RuntimeError("the checkpoint belongs to another configuration")
        return from_state(member, rates, state, self._like)

    def epoch(self, members: Sequence[Member[Params]]) -> list[Trained[Member[Params]]]:
        """Train trials for one epoch; one that diverged reports NaN as its scores, and fails."""
        return [judged(*trained) for trained in self._trainer.epoch(members)]

    def save(self, member: Member[Params], epoch: int, path: Path) -> None:
        """Write the state of a trial: tensors and plain types."""
        state = to_state(member, rates_of(member.params))
        torch.save({"epoch": epoch, "params": dict(member.params), **state}, path)


class _Task:
    """See `Task`."""

    def __init__(self, training: PackedTrainable) -> None:
        self._training = training

    def build(self, params: Params) -> nn.Module:
        return self._training.model(params)

    def forward(self, model: nn.Module) -> Vmapped:
        return Vmapped(model)

    def rates(self, params: Params) -> Rates:
        return rates_of(params)

    def batch_size(self, params: Params) -> int:
        return int(check_value("batch_size", params.get("batch_size", BATCH_SIZE)))

    def losses(self, outputs: Tensor, targets: Tensor, params: Sequence[Params]) -> Tensor:
        losses: Tensor = torch.vmap(self._training.loss)(outputs, targets)
        return losses

    def scores(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        loss = {"val_loss": float(self._training.loss(outputs, targets))}
        own = {name: float(score(outputs, targets)) for name, score in self._training.scores.items()}
        return loss | own


def rates_of(params: Params) -> Rates:
    """Return how the weights of a configuration move.

    Raises:
        ConfigError: a parameter has a value that is not allowed.

    >>> rates_of({"learning_rate": 0.1, "width": 8})
    Rates(optimizer='adam', learning_rate=0.1, weight_decay=0.0, momentum=0.9, beta1=0.9, beta2=0.999, \
schedule='constant')
    """
    names = [field.name for field in fields(Rates)]
    known: dict[str, Any] = {name: check_value(name, params[name]) for name in names if name in params}
    return Rates(**known)
