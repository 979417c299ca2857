"""The two networks: an MLP for tables, a small CNN for images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

_POOLED = 4  # height and width, in pixels, that the CNN reduces its maps to


def build_model(
    input_shape: Sequence[int], outputs: int, *, layers: int, width: int, dropout: float, normalisation: str
) -> nn.Module:
    """Return an MLP for rows of shape (features,), a CNN for images of shape (channels, height, width).

    Args:
        input_shape: shape of one row of X.
        outputs: classes, or 1 for regression; the model returns logits, or standardised values, of shape
            (rows, outputs).
        layers, width, dropout, normalisation: see `Hyperparameters`.

    >>> import torch
    >>> model = build_model((3, 28, 28), 10, layers=3, width=8, dropout=0.1, normalisation="batch")
    >>> model(torch.zeros(5, 3, 28, 28)).shape
    torch.Size([5, 10])
    """
    make = _cnn if len(input_shape) == 3 else _mlp
    return make(input_shape, outputs, layers, width, dropout, normalisation)


def _has_bias(normalisation: str) -> bool:
    """Whether a layer before this normalisation has a bias.

    Batch normalisation takes its mean away again: its gradient is nothing but errors of rounding, of which
    Adam makes steps all the same, which the running mean follows, so that validation would depend on them.
    """
    return normalisation != "batch"


def _mlp(
    shape: Sequence[int], outputs: int, layers: int, width: int, dropout: float, normalisation: str
) -> nn.Module:
    (features,) = shape
    parts: list[nn.Module] = []
    for layer in range(layers):
        parts.append(nn.Linear(width if layer else features, width, bias=_has_bias(normalisation)))
        if normalisation == "batch":
            parts.append(nn.BatchNorm1d(width))
        elif normalisation == "layer":
            parts.append(nn.LayerNorm(width))
        parts.append(nn.ReLU())
        if dropout:
            parts.append(nn.Dropout(dropout))
    return nn.Sequential(*parts, nn.Linear(width, outputs))


def _cnn(
    shape: Sequence[int], outputs: int, layers: int, width: int, dropout: float, normalisation: str
) -> nn.Module:
    channels, height, width_px = shape
    parts: list[nn.Module] = []
    for layer in range(layers):
        inputs = width if layer else channels
        parts.append(nn.Conv2d(inputs, width, kernel_size=3, padding=1, bias=_has_bias(normalisation)))
        if normalisation == "batch":
            parts.append(nn.BatchNorm2d(width))
        elif normalisation == "layer":
            parts.append(nn.GroupNorm(1, width))
        parts.append(nn.ReLU())
        if min(height, width_px) >= 2 * _POOLED:
            parts.append(nn.MaxPool2d(2))
            height, width_px = height // 2, width_px // 2
    if height > _POOLED or width_px > _POOLED:  # fewer layers than the image has halvings
        height, width_px = min(height, _POOLED), min(width_px, _POOLED)
        parts.append(nn.AdaptiveAvgPool2d((height, width_px)))
    parts.append(nn.Flatten())
    if dropout:
        parts.append(nn.Dropout(dropout))
    return nn.Sequential(*parts, nn.Linear(width * height * width_px, outputs))
