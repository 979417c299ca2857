"""Any model over the stacked weights of several trials, by `torch.func`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mlflow_hpo.training.pack import dropouts_of


class Vmapped:
    """The function of a model, for several trials with weights of their own; see `Forward`.

    Dropout multiplies by the masks that it is given, which are each trial's own.

    Args:
        model: its own weights do not matter.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = copy.deepcopy(model)
        self._masked = []
        for dropout in dropouts_of(self._model):
            masked = _Masked()
            for parent in self._model.modules():
                for name, child in parent.named_children():
                    if child is dropout:
                        setattr(parent, name, masked)
            self._masked.append(masked)

    def __call__(
        self,
        weights: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        x: Tensor,
        masks: Sequence[Tensor],
        *,
        training: bool,
    ) -> Tensor:
        """Return the outputs, shape (trials, rows, ...)."""
        self._model.train(training)
        by_row = [mask.movedim(-1, 1) for mask in masks]
        try:
            outputs: Tensor = torch.vmap(self._one)(dict(weights), dict(buffers), x, by_row)
        finally:
            for layer in self._masked:
                layer.mask = None
        return outputs

    def _one(
        self, weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, masks: list[Tensor]
    ) -> Tensor:
        for layer, mask in zip(self._masked, masks, strict=bool(masks)):
            layer.mask = mask
        outputs: Tensor = functional_call(self._model, {**weights, **buffers}, (x,))
        return outputs


class _Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.mask is None else x * self.mask
