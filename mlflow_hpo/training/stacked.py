"""Layers over the stacked weights of several trials: one product does for all of them.

What is computed of one trial must not depend, in any bit, on how many others are there: products are batched
(`torch.bmm`), and no sum runs over trials. On the CPU that holds of every operation here where MKL is told so
(`MKL_CBWR`), as workers are; tests check it. Convolutions on the CPU are `Maps`.

Activations have the shape (trials, channels, ..., rows): so the rows of each pixel lie side by side, which is
what products want, and what makes shifting and pooling of maps work on long pieces of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlflow_hpo.training.maps import Maps

Named = Mapping[str, Tensor]


class Stacked:
    """The function of layers one after the other, for several trials with weights of their own.

    Args:
        layers: with their names, as `build_model` has them; their own weights do not matter.
    """

    def __init__(self, layers: Iterable[tuple[str, nn.Module]]) -> None:
        self._layers = list(layers)
        for at, ((_, one), (_, other)) in enumerate(pairwise(self._layers)):
            if isinstance(one, nn.ReLU) and isinstance(other, nn.MaxPool2d):  # the same, and quicker
                self._layers[at : at + 2] = self._layers[at + 1], self._layers[at]
        kinds = [type(layer) for _, layer in self._layers]
        flat = kinds.index(nn.Flatten) if kinds[0] is nn.Conv2d else 0
        self._maps = Maps(self._layers[:flat]) if flat else None
        self._behind = self._layers[flat + 1 :]

    def __call__(
        self, weights: Named, buffers: Named, x: Tensor, masks: Sequence[Tensor], *, training: bool
    ) -> Tensor:
        """Return the outputs, shape (trials, rows, outputs).

        Args:
            weights: of shape (trials, *shape).
            buffers: likewise; those of batch normalisation change in training.
            x: shape (trials, rows, *input_shape).
            masks: what each dropout layer multiplies by in training, shape (trials, *features, rows).
            training: as opposed to evaluation.
        """
        dropouts = iter(masks)
        if self._maps is not None and x.device.type == "cpu":
            layers, x = self._behind, self._maps(weights, buffers, x, training=training)
        else:
            layers, x = self._layers, x.movedim(1, -1)
        for name, layer in layers:
            if isinstance(layer, nn.Dropout):
                x = x * next(dropouts) if training else x
            else:
                x = _LAYERS[type(layer)](layer, _Own(name, weights, buffers), x, training)
        return x.movedim(-1, 1)


class _Own:
    """The tensors of one layer."""

    def __init__(self, name: str, weights: Named, buffers: Named) -> None:
        self._name = name
        self._weights = weights
        self._buffers = buffers

    def weight(self, name: str) -> Tensor:
        return self._weights[f"{self._name}.{name}"]

    def buffer(self, name: str) -> Tensor:
        return self._buffers[f"{self._name}.{name}"]


def _linear(layer: Any, own: _Own, x: Tensor, training: bool) -> Tensor:
    return _products(layer, own, own.weight("weight"), x)


def _products(layer: Any, own: _Own, weight: Tensor, x: Tensor) -> Tensor:
    if layer.bias is None:
        return torch.bmm(weight, x)
    return torch.baddbmm(own.weight("bias").unsqueeze(2), weight, x)


def _convolution(layer: Any, own: _Own, x: Tensor, training: bool) -> Tensor:
    trials, _, *size = x.shape
    patches: Tensor = _Patches.apply(x)  # type: ignore[no-untyped-call]
    maps = _products(layer, own, own.weight("weight").flatten(2), patches)
    return maps.view(trials, layer.out_channels, *size)


class _Patches(torch.autograd.Function):
    """Of maps of shape (trials, channels, height, width, rows) the 3 x 3 surroundings of each pixel.

    Their shape is (trials, channels * 9, height * width * rows). Unlike `nn.functional.unfold` this copies
    whole lines.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = trials, channels, height, width, rows = x.shape
        padded = F.pad(x, (0, 0, 1, 1, 1, 1))
        patches = x.new_empty(trials, channels, 9, height, width, rows)
        for at in range(9):
            patches[:, :, at] = _shifted(padded, at)
        return patches.view(trials, channels * 9, height * width * rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor | None:
        if not ctx.needs_input_grad[0]:
            return None
        trials, channels, height, width, rows = ctx.shape
        patches = gradient.view(trials, channels, 9, height, width, rows)
        padded = gradient.new_zeros(trials, channels, height + 2, width + 2, rows)
        for at in range(9):
            _shifted(padded, at).add_(patches[:, :, at])
        return padded[:, :, 1:-1, 1:-1]


def _shifted(padded: Tensor, at: int) -> Tensor:
    height, width = padded.shape[2] - 2, padded.shape[3] - 2
    return padded[:, :, at // 3 : at // 3 + height, at % 3 : at % 3 + width]


class _Largest(torch.autograd.Function):
    """Of maps of shape (trials, channels, height, width, rows) the largest of each 2 x 2 pixels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        first, second, third, fourth = _quarters(x)
        largest = torch.maximum(torch.maximum(first, second), torch.maximum(third, fourth))
        ctx.save_for_backward(x, largest)
        return largest

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, largest = ctx.saved_tensors
        whole = torch.zeros_like(x)
        taken = torch.zeros_like(largest, dtype=torch.bool)
        for quarter, target in zip(_quarters(x), _quarters(whole), strict=True):
            first = (quarter == largest).logical_and_(~taken)  # of several that are the largest
            torch.mul(gradient, first, out=target)
            taken.logical_or_(first)
        return whole


def _quarters(x: Tensor) -> list[Tensor]:
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    return [x[:, :, down:height:2, right:width:2] for down in (0, 1) for right in (0, 1)]


def _batch_norm(layer: Any, own: _Own, x: Tensor, training: bool) -> Tensor:
    channels = x.shape[0] * x.shape[1]  # a channel of one trial has nothing to do with that of another
    if training:
        own.buffer("num_batches_tracked").add_(1)
    normal = F.batch_norm(
        x.reshape(1, channels, -1),
        own.buffer("running_mean").view(channels),
        own.buffer("running_var").view(channels),
        own.weight("weight").reshape(channels),
        own.weight("bias").reshape(channels),
        training,
        layer.momentum,
        layer.eps,
    )
    return normal.view(x.shape)


def _layer_norm(layer: Any, own: _Own, x: Tensor, training: bool) -> Tensor:
    """Normalise each row over all but the trials; the weights are those of the channels."""
    by_row = x.movedim(-1, 1)
    normal = F.layer_norm(by_row, by_row.shape[2:], eps=layer.eps).movedim(1, -1)
    weight, bias = (own.weight(name).view(*x.shape[:2], *[1] * (x.dim() - 2)) for name in ("weight", "bias"))
    return normal * weight + bias


def _relu(layer: Any, own: _Own, x: Tensor, training: bool) -> Tensor:
    return F.relu(x)


def _max_pool(layer: Any, own: _Own, x: Tensor, training: bool) -> Tensor:
    largest: Tensor = _Largest.apply(x)  # type: ignore[no-untyped-call]
    return largest


def _average_pool(layer: Any, own: _Own, x: Tensor, training: bool) -> Tensor:
    maps = F.adaptive_avg_pool2d(x.movedim(-1, 2).flatten(0, 1), layer.output_size)
    return maps.view(*x.shape[:2], *maps.shape[1:]).movedim(2, -1)


def _flatten(layer: Any, own: _Own, x: Tensor, training: bool) -> Tensor:
    return x.flatten(1, -2)


_LAYERS: Mapping[type[nn.Module], Callable[[Any, _Own, Tensor, bool], Tensor]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _layer_norm,
    nn.ReLU: _relu,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveAvgPool2d: _average_pool,
    nn.Flatten: _flatten,
}
