"""Layout: all parameters of a model in one flat vector, so that an optimizer's step is a few operations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_ALIGNED = 16  # numbers: matrix products may round otherwise where a matrix begins in mid cache line


class Layout:
    """Where the parameters of a model lie in a vector of `size` numbers; what lies between them is zero.

    Args:
        model: its values do not matter; it may be on the device "meta".

    >>> layout = Layout(nn.Linear(3, 2))
    >>> layout.size, {name: list(part.shape) for name, part in layout.parts(torch.zeros(5, 32)).items()}
    (32, {'weight': [5, 2, 3], 'bias': [5, 2]})
    """

    def __init__(self, model: nn.Module) -> None:
        self._shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        self._sizes: list[int] = []  # of each parameter, and of the gap behind it
        for shape in self._shapes.values():
            size = math.prod(shape)
            self._sizes += [size, -size % _ALIGNED]
        self.size = sum(self._sizes)

    @property
    def names(self) -> list[str]:
        """The parameters' names, in their order."""
        return list(self._shapes)

    def parts(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of vectors, shape (..., size), as parameters of shape (..., *shape)."""
        pieces = torch.split(flat, self._sizes, dim=-1)[::2]
        return {
            name: piece.view(*piece.shape[:-1], *shape)
            for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }

    def flat(self, parts: Mapping[str, Tensor], *, like: Tensor) -> Tensor:
        """Return a vector of the type and on the device of `like` that holds `parts`; absent ones are zero.

        Raises:
            RuntimeError: a part has another shape.
        """
        pieces: list[Tensor] = []
        for (name, shape), gap in zip(self._shapes.items(), self._sizes[1::2], strict=True):
            part = parts.get(name, torch.zeros(shape)).detach()
            if part.shape != shape:
                raise RuntimeError(f"{name} has the shape {list(part.shape)}, not {list(shape)}")
            pieces += [part.reshape(-1).to(like.device, like.dtype), like.new_zeros(gap)]
        return torch.cat(pieces)
