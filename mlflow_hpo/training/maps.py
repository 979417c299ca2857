"""The convolutional layers of several trials on the CPU, by torch's own convolutions.

Narrow ones are computed for some trials at once, as the groups of one convolution: alone they would leave
vector units half empty, and take most of their time for calls. Wide ones are computed trial by trial.

What is computed of one trial must not depend, in any bit, on how many others are there, and kernels are
chosen by size. So a group always has an even number of trials, one of zeros where one is missing, and gives
each as many channels as fill vectors; then all of them round alike on one thread. Tests check it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Named = Mapping[str, Tensor]

_GROUPS = (8, 4, 2)  # trials that may be computed at once
_CHANNELS = (8, 16)  # that each has then; who needs more is computed alone
_NUMBERS = 1 << 19  # of the largest activation of a group: a core's cache


class Maps:
    """The function of layers on images, for several trials with weights of their own.

    Args:
        layers: with their names, from the first convolution to before the layer that flattens.
    """

    def __init__(self, layers: Sequence[tuple[str, nn.Module]]) -> None:
        self._layers = layers
        self._prefixes = tuple(f"{name}." for name, _ in layers)
        self._channels = next(layer.out_channels for _, layer in layers if isinstance(layer, nn.Conv2d))
        self._width = next((each for each in _CHANNELS if each >= self._channels), None)

    def __call__(self, weights: Named, buffers: Named, x: Tensor, *, training: bool) -> Tensor:
        """Return what is made of the images, flat, shape (trials, features, rows).

        Args:
            weights: of shape (trials, *shape).
            buffers: likewise; those of batch normalisation change in training.
            x: shape (trials, rows, channels, height, width).
            training: as opposed to evaluation.
        """
        sizes = list(self._sizes(x))
        own = {name: weight for name, weight in weights.items() if name.startswith(self._prefixes)}
        parts = {name: torch.split(weight, sizes) for name, weight in own.items()}
        kept = {name: torch.split(buffer, sizes) for name, buffer in buffers.items()}
        done = []
        for at, (size, images) in enumerate(zip(sizes, torch.split(x, sizes), strict=True)):
            group = _Group(
                {name: part[at] for name, part in parts.items()},
                {name: part[at] for name, part in kept.items()},
                size,
                self._channels,
                size if self._width is None else size + size % 2,
                self._width or self._channels,
                training,
            )
            maps = group.joined(images)
            for name, layer in self._layers:
                maps = _LAYERS[type(layer)](group, layer, name, maps)
            done.append(group.flat(maps))
        return torch.cat(done)

    def _sizes(self, x: Tensor) -> Iterator[int]:
        """Divide the trials into groups."""
        trials, rows, _, height, width = x.shape
        if self._width is None:
            yield from [1] * trials
            return
        each = rows * height * width * self._width
        most = next((size for size in _GROUPS if size * each <= _NUMBERS), _GROUPS[-1])
        while trials:
            size = next((size for size in _GROUPS if size <= min(most, trials)), 1)
            trials -= size
            yield size


@dataclass(frozen=True)
class _Group:
    """Some trials, and the places that they are computed in.

    Their maps have the shape (rows, places * width, height, width of the image), the channels innermost in
    memory. What is in a place, or a channel, that no trial has is zero.
    """

    weights: Named
    buffers: Named
    trials: int
    channels: int
    places: int
    width: int
    training: bool

    def joined(self, images: Tensor) -> Tensor:
        """Return images of shape (trials, rows, channels, height, width) as maps."""
        placed = _padded(images, (*[0] * 9, self.places - self.trials))
        maps = placed.permute(1, 0, 2, 3, 4).flatten(1, 2)
        return maps.contiguous(memory_format=torch.channels_last)

    def apart(self, maps: Tensor) -> Tensor:
        """Return maps as a view of shape (trials, channels, height, width, rows)."""
        each = maps.permute(1, 2, 3, 0)
        each = each.view(self.places, self.width, *each.shape[1:])
        return each[: self.trials, : self.channels]

    def flat(self, maps: Tensor) -> Tensor:
        """Return maps as the layers behind them take them, shape (trials, features, rows)."""
        whole: Tensor = _Flat.apply(maps, self.width)  # type: ignore[no-untyped-call]
        return whole[: self.trials, : self.channels].flatten(1, 3)

    def by_channel(self, values: Tensor) -> Tensor:
        """Return values of shape (trials, channels) for each channel of the maps."""
        spare = (0, self.width - self.channels, 0, self.places - self.trials)
        return _padded(values, spare).flatten()

    def convolution(self, layer: Any, name: str, maps: Tensor) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        inputs = maps.shape[1] // self.places
        spare = (inputs - weight.shape[2], 0, self.width - self.channels, 0, self.places - self.trials)
        kernel = _padded(weight, (0, 0, 0, 0, 0, *spare)).flatten(0, 1)
        bias = None if layer.bias is None else self.by_channel(self.weights[f"{name}.bias"])
        return F.conv2d(maps, kernel, bias, padding=layer.padding, groups=self.places)

    def batch_norm(self, layer: Any, name: str, maps: Tensor) -> Tensor:
        kept = [self.buffers[f"{name}.{of}"] for of in ("running_mean", "running_var")]
        mean, variance = (self.by_channel(each).clone() for each in kept)  # other groups change them, too
        weight, bias = (self.by_channel(self.weights[f"{name}.{of}"]) for of in ("weight", "bias"))
        normal = F.batch_norm(maps, mean, variance, weight, bias, self.training, layer.momentum, layer.eps)
        if self.training:
            self.buffers[f"{name}.num_batches_tracked"].add_(1)
            for own, changed in zip(kept, (mean, variance), strict=True):
                own.copy_(changed.view(self.places, self.width)[: self.trials, : self.channels])
        return normal

    def group_norm(self, layer: Any, name: str, maps: Tensor) -> Tensor:
        """Normalise each row of each trial over all of its maps."""
        each = self.apart(maps).movedim(-1, 1)
        normal = F.layer_norm(each, each.shape[2:], eps=layer.eps)
        weight, bias = (self.weights[f"{name}.{of}"][:, None, :, None, None] for of in ("weight", "bias"))
        spare = (0, 0, 0, 0, 0, self.width - self.channels)
        return self.joined(_padded(normal * weight + bias, spare))

    def relu(self, layer: Any, name: str, maps: Tensor) -> Tensor:
        return F.relu(maps)

    def max_pool(self, layer: Any, name: str, maps: Tensor) -> Tensor:
        return F.max_pool2d(maps, layer.kernel_size)

    def average_pool(self, layer: Any, name: str, maps: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(maps, layer.output_size)


def _padded(values: Tensor, spare: Sequence[int]) -> Tensor:
    return F.pad(values, tuple(spare)) if any(spare) else values  # it would copy them


class _Flat(torch.autograd.Function):
    """Of maps, shape (rows, places * width, height, width of the image), those of each place, the rows last.

    It is `permute`, forward and back; but a transposed matrix and then whole lines are copied quicker.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, width: int) -> Tensor:
        rows, _, *size = maps.shape
        lines = maps.permute(0, 2, 3, 1).reshape(rows, -1).t().contiguous()
        return lines.view(*size, -1, width, rows).permute(2, 3, 0, 1, 4).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        places, width, *size, rows = gradient.shape
        lines = gradient.permute(2, 3, 0, 1, 4).reshape(-1, rows).t().contiguous()
        return lines.view(rows, *size, places * width).permute(0, 3, 1, 2), None


_LAYERS: Mapping[type[nn.Module], Callable[[_Group, Any, str, Tensor], Tensor]] = {
    nn.Conv2d: _Group.convolution,
    nn.BatchNorm2d: _Group.batch_norm,
    nn.GroupNorm: _Group.group_norm,
    nn.ReLU: _Group.relu,
    nn.MaxPool2d: _Group.max_pool,
    nn.AdaptiveAvgPool2d: _Group.average_pool,
}
