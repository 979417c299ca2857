"""Checkpoints: what is in them, how they are read, and the predictor that one file is enough for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from mlflow_hpo.training.models import build_model
from mlflow_hpo.training.preprocessing import Floats, preprocessor_from_json

FORMAT = 2  # a reader refuses what it does not know
CHUNK = 1 << 18  # numbers put through a model at once: a CNN makes `width` times as many of them

_SERVED = ("format", "architecture", "classes", "target_mean", "target_scale", "preprocessor", "model")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU: tensors and plain types, never unpickling anything else.

    Raises:
        RuntimeError: the file is damaged or not a checkpoint of this training.
    """
    state = load_plain(path)
    if state.get("format") != FORMAT:
        raise RuntimeError(f"{Path(path).name} is not a checkpoint of this training (format {FORMAT})")
    return state


def load_plain(path: str | Path) -> dict[str, Any]:
    """Load a mapping of tensors and plain types onto the CPU, never unpickling anything else.

    Raises:
        RuntimeError: the file is damaged, or something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch passes on what its zip reader and its unpickler raise
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RuntimeError(f"cannot read the checkpoint {Path(path).name}: {problem:.200}") from error
    if not isinstance(state, dict):
        raise RuntimeError(f"{Path(path).name} is not a checkpoint of this training (format {FORMAT})")
    return state


def export_model(checkpoint: str | Path, path: str | Path) -> None:
    """Write the part of a checkpoint that predictions need to `path`; the optimizer stays behind.

    Raises:
        RuntimeError: see `read_checkpoint`.
    """
    state = read_checkpoint(checkpoint)
    torch.save({name: state[name] for name in _SERVED}, path)


class Predictor:
    """Predicts from raw rows with the model of a checkpoint, on the CPU.

    Args:
        state: what `read_checkpoint` returned, or what `export_model` kept of it.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._preprocessor = preprocessor_from_json(state["preprocessor"])
        self._classes: list[bool | int | str] = state["classes"]
        self._mean: float = state["target_mean"]
        self._scale: float = state["target_scale"]
        self._model: nn.Module = build_model(**state["architecture"])
        self._model.load_state_dict(state["model"])
        self._model.eval()

    def predict(self, rows: pd.DataFrame | npt.NDArray[Any]) -> pd.DataFrame:
        """Return one row for each of `rows`.

        Args:
            rows: a table's raw columns; or images of the shape and in the units of the training's.

        Returns:
            The column `prediction`: the class as it stood in the training data, or the number in the target's
            units. For classes also `probability_<class>`, as float64, in the order of the classes.

        Raises:
            ValueError: a column is not there, or images have another shape than in training.
        """
        outputs = self._outputs(self._preprocessor.transform(rows))
        if not self._classes:
            return pd.DataFrame({"prediction": outputs[:, 0] * self._scale + self._mean})
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        prediction = [self._classes[best] for best in outputs.argmax(axis=1)]
        columns = {f"probability_{label}": probabilities[:, at] for at, label in enumerate(self._classes)}
        return pd.DataFrame({"prediction": prediction, **columns})

    @torch.no_grad()
    def _outputs(self, features: Floats) -> npt.NDArray[np.float64]:
        chunk = max(1, CHUNK // int(np.prod(features.shape[1:])))
        parts = [self._model(part) for part in torch.split(torch.from_numpy(features), chunk)]
        return (
            torch.cat(parts).double().numpy() if len(features) else np.zeros((0, max(1, len(self._classes))))
        )
