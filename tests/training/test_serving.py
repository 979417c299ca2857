from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.types import DataType
from training.memory import MemoryChannel, run, table

from mlflow_hpo.training.bundled import BundledTraining
from mlflow_hpo.training.checkpoint import Predictor, read_checkpoint

SMALL = {"width": 8}

# Another machine: the package cannot be imported, neither installed nor as a checkout.
ELSEWHERE = """
import importlib.machinery, sys, sysconfig
class Path(importlib.machinery.PathFinder):
    # finds everything but the installed mlflow_hpo
    @classmethod
    def find_spec(cls, name, *args):
        spec = super().find_spec(name, *args)
        installed = name == "mlflow_hpo" and spec and spec.origin.startswith(sysconfig.get_path("purelib"))
        return None if installed else spec
others = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.meta_path = [Path if finder is importlib.machinery.PathFinder else finder for finder in others]
sys.path = [entry for entry in sys.path if "editable" not in entry and entry not in ("", sys.argv[1])]
try:
    import mlflow_hpo
except ImportError:
    pass
else:
    raise SystemExit("mlflow_hpo can be imported")
import json, mlflow, numpy, pandas
answers = []
for folder, rows in zip(sys.argv[2::2], sys.argv[3::2]):
    model = mlflow.pyfunc.load_model(folder)
    rows = pandas.read_pickle(rows) if rows.endswith(".pkl") else numpy.load(rows)
    answers.append(model.predict(rows).to_dict("list"))
assert sys.modules["mlflow_hpo"].__file__.startswith(sys.argv[2])
assert not {"sklearn", "boto3", "hyperopt"} & set(sys.modules), "training's requirements were imported"
print(json.dumps(answers))
"""


def logged(training: BundledTraining, channel: MemoryChannel, register: str | None = None) -> str:
    run(training, SMALL, channel, stop=1)
    assert channel.newest is not None
    with mlflow.start_run() as active:
        training.log_model(channel.newest[1], SMALL, registered_model_name=register)
    [output] = MlflowClient().get_run(active.info.run_id).outputs.model_outputs
    return f"models:/{output.model_id}"


def test_models_predict_on_another_machine(
    store: MlflowClient, channel: MemoryChannel, tmp_path: Path
) -> None:
    frame = table()
    frame.to_parquet(tmp_path / "data.parquet")
    rows = frame.drop(columns="label").head(8)
    rows.to_pickle(tmp_path / "rows.pkl")
    images = np.random.default_rng(0).uniform(0, 16, (6, 8, 8))
    np.save(tmp_path / "images.npy", images)
    folders, own = [], []
    for data, target, raw in ((str(tmp_path / "data.parquet"), "label", rows), ("digits", None, images)):
        uri = logged(BundledTraining(data, target), channel)
        folders.append(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / Path(data).name[:4])))
        assert channel.newest is not None
        own.append(Predictor(read_checkpoint(channel.newest[1])).predict(raw))
        channel.newest = None
    (tmp_path / "data.parquet").unlink()

    cwd = tmp_path / "cwd"
    cwd.mkdir()
    checkout = str(Path(__file__).parents[2])
    pairs = [folders[0], tmp_path / "rows.pkl", folders[1], tmp_path / "images.npy"]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, checkout, *pairs],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for predicted, expected in zip(json.loads(done.stdout.splitlines()[-1]), own, strict=True):
        assert list(predicted) == list(expected.columns)
        assert predicted["prediction"] == expected["prediction"].tolist()
        assert np.allclose(pd.DataFrame(predicted).iloc[:, 1:], expected.iloc[:, 1:])
    assert set(own[0]["prediction"]) <= {"yes", "no"}


def test_nothing_in_the_model_is_a_pickle_and_all_is_pinned(
    store: MlflowClient, channel: MemoryChannel, tmp_path: Path
) -> None:
    uri = logged(BundledTraining("wine"), channel, register="winner")
    assert len(store.search_model_versions("name='winner'")) == 1
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "model")))
    assert not list(folder.rglob("*.pkl"))
    assert not list(folder.rglob("__pycache__"))
    [weights] = folder.rglob("*.pt")
    assert "optimizer" not in torch.load(weights, weights_only=True)
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert sorted(line.partition("==")[0] for line in requirements) == ["mlflow", "numpy", "pandas", "torch"]
    assert all("==" in line and "+" not in line for line in requirements)


def test_signature_and_input_example(store: MlflowClient, channel: MemoryChannel, tmp_path: Path) -> None:
    frame = table().assign(when=pd.date_range("2024-01-01", periods=100, tz="Europe/Berlin"))
    frame.to_parquet(tmp_path / "data.parquet")
    model = mlflow.pyfunc.load_model(
        logged(BundledTraining(str(tmp_path / "data.parquet"), "label"), channel)
    )
    assert model.metadata.signature is not None
    assert model.metadata.signature.inputs.input_dict().keys() == {
        *("size", "count", "flag", "maybe", "colour", "town", "day", "when")
    }
    types = {name: spec.type for name, spec in model.metadata.signature.inputs.input_dict().items()}
    assert types["size"] == DataType.double
    assert types["count"] == DataType.long
    assert types["flag"] == DataType.boolean
    assert types["colour"] == types["maybe"] == types["day"] == DataType.string
    assert types["when"] == DataType.datetime
    assert model.metadata.signature.outputs.input_names() == [
        "prediction",
        "probability_no",
        "probability_yes",
    ]
    example = model.input_example
    assert example is not None
    assert len(model.predict(example)) == len(example)


def test_regression_predicts_in_the_targets_units(store: MlflowClient, channel: MemoryChannel) -> None:
    training = BundledTraining("diabetes")
    model = mlflow.pyfunc.load_model(logged(training, channel))
    predicted = model.predict(training.dataset().example)
    assert list(predicted.columns) == ["prediction"]
    assert predicted["prediction"].between(25, 350).all()


@pytest.mark.parametrize("data", ["wine", "digits"])
def test_no_rows_give_no_predictions(data: str, channel: MemoryChannel) -> None:
    training = BundledTraining(data)
    run(training, SMALL, channel, stop=1)
    assert channel.newest is not None
    predictor = Predictor(read_checkpoint(channel.newest[1]))
    assert len(predictor.predict(training.dataset().example[:0])) == 0
