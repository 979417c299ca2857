"""The trained model as an MLflow model that needs neither this package installed nor the training's data.

MLflow loads it by `_load_pyfunc` of this module (a *loader module*), from the copy of the package that
travels with the model. Nothing in the model is a pickle.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

import mlflow_hpo
from mlflow_hpo.training.checkpoint import Predictor, export_model, read_checkpoint

with warnings.catch_warnings():
    # MLflow warns, whenever this module is imported, of a type hint of its own.
    warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType", category=UserWarning)
    import mlflow.pyfunc.model

MODEL_NAME = "model"
REQUIREMENTS = ("mlflow", "numpy", "pandas", "torch")


class ServedModel:
    """What `mlflow.pyfunc.load_model` wraps; see `Predictor.predict` for what goes in and comes out."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(
        self,
        model_input: pd.DataFrame | npt.NDArray[Any],
        params: Mapping[str, Any] | None = None,  # MLflow passes it; this model has none
    ) -> pd.DataFrame:
        """Predict from raw rows of a table, or from images."""
        return self._predictor.predict(model_input)


def _load_pyfunc(data_path: str) -> ServedModel:
    return ServedModel(Predictor(read_checkpoint(data_path)))


def log_model(
    checkpoint: str | Path,
    example: pd.DataFrame | npt.NDArray[Any],
    params: Mapping[str, Any],
    *,
    registered_model_name: str | None = None,
) -> str:
    """Log the model of a checkpoint to the active MLflow run and return its URI.

    Args:
        checkpoint: a checkpoint of the bundled training.
        example: raw rows as the model takes them; the signature is made of them.
        params: hyperparameters, kept with the logged model.
        registered_model_name: register it as the next version under this name.

    Raises:
        RuntimeError: see `read_checkpoint`.
        mlflow.exceptions.MlflowException: the tracking server refused.
    """
    with tempfile.TemporaryDirectory(prefix="mlflow-hpo-model-") as folder:
        path = Path(folder) / "model.pt"
        export_model(checkpoint, path)
        predictions = Predictor(read_checkpoint(path)).predict(example)
        if isinstance(example, pd.DataFrame):
            # MLflow compares the names with a range, which pandas 3 deprecates for its own text type.
            example = example.set_axis(example.columns.astype(object), axis=1)
        info = mlflow.pyfunc.log_model(
            name=MODEL_NAME,
            loader_module=__name__,
            data_path=str(path),
            code_paths=[str(Path(mlflow_hpo.__file__).parent)],
            signature=signature(example, predictions),
            input_example=example,
            pip_requirements=[f"{name}=={_version(name)}" for name in REQUIREMENTS],
            params=dict(params),
            registered_model_name=registered_model_name,
        )
    return str(info.model_uri)


def signature(example: pd.DataFrame | npt.NDArray[Any], predictions: pd.DataFrame) -> ModelSignature:
    """Return the signature of a model that makes `predictions` of `example`.

    MLflow's own inference warns of whole numbers that may be missing one day; here all of the data was seen,
    and a column that has missing values is one of floats.
    """
    inputs = _columns(example) if isinstance(example, pd.DataFrame) else _tensor(example)
    return ModelSignature(inputs=inputs, outputs=_columns(predictions))


def _columns(frame: pd.DataFrame) -> Schema:
    kinds = {"b": DataType.boolean, "i": DataType.long, "f": DataType.double, "M": DataType.datetime}
    return Schema([ColSpec(kinds.get(frame[name].dtype.kind, DataType.string), str(name)) for name in frame])


def _tensor(images: npt.NDArray[Any]) -> Schema:
    return Schema([TensorSpec(np.dtype(images.dtype), (-1, *images.shape[1:]))])


def _version(distribution: str) -> str:
    # "2.13.0+cpu" is how this machine got it, not something that a package index has.
    return importlib.metadata.version(distribution).partition("+")[0]
