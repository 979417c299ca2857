from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from training.memory import MemoryChannel, run

import mlflow_hpo.training
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.training.bundled import BundledTraining
from mlflow_hpo.training.checkpoint import Predictor, read_checkpoint
from mlflow_hpo.training.hyperparameters import NAMES
from mlflow_hpo.training.models import build_model
from mlflow_hpo.training.schedules import learning_rate_factor
from mlflow_hpo.trial import Trial, TrialStopped

SMALL = {"width": 8, "dropout": 0.3}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """60 images of 8 x 8 pixels in three classes: enough for bits, and fast."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, X=rng.normal(size=(60, 8, 8)) + y[:, None, None], y=y)
    return str(path)


def sources(images: str) -> list[str]:
    return ["wine", images]


@pytest.mark.parametrize("normalisation", ["none", "batch", "layer"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_paused_training_goes_on_bit_for_bit(
    optimizer: str, schedule: str, normalisation: str, images: str, tmp_path: Path
) -> None:
    params = {**SMALL, "optimizer": optimizer, "schedule": schedule, "normalisation": normalisation}
    for data in sources(images):
        whole = MemoryChannel(tmp_path)
        run(BundledTraining(data, max_epochs=4), params, whole, stop=4)
        for pauses in ([1], [3], [1, 2, 3]):
            paused = MemoryChannel(tmp_path)
            for stop in [*pauses, 4]:
                torch.rand(5)  # what else goes on in the process must not matter
                run(BundledTraining(data, max_epochs=4), params, paused, stop=stop)
            assert paused.curve == whole.curve


def test_other_users_of_the_generator_get_it_back(channel: MemoryChannel) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    run(BundledTraining("wine"), SMALL, channel, stop=1)
    assert torch.equal(torch.rand(4), expected)


def test_a_seed_decides_everything(tmp_path: Path) -> None:
    curves = []
    for seed in (1, 1, 2):
        channel = MemoryChannel(tmp_path)
        run(BundledTraining("diabetes"), SMALL, channel, stop=2, seed=seed)
        curves.append(channel.curve)
    assert curves[0] == curves[1] != curves[2]


@pytest.mark.parametrize(
    ("data", "params", "least"),
    [
        ("digits", {}, 0.97),
        ("breast_cancer", {}, 0.95),
        ("wine", {}, 0.95),
        ("diabetes", {"normalisation": "none", "learning_rate": 1e-3}, 0.4),
    ],
)
def test_the_bundled_data_is_learnt(
    data: str, params: dict[str, Any], least: float, channel: MemoryChannel
) -> None:
    training = BundledTraining(data)
    training.prepare()
    run(training, params, channel, stop=27)
    last = channel.reports[27]
    assert set(last) == training.metrics
    assert last["val_r2" if data == "diabetes" else "val_accuracy"] >= least
    assert last["epoch_seconds"] > 0
    assert last["samples_per_second"] > 100


def test_what_a_study_asks_of_the_training() -> None:
    training = BundledTraining("diabetes")
    training.prepare()
    assert training.default_metric == ("val_rmse", "min")
    assert BundledTraining("wine").default_metric == ("val_accuracy", "max")
    facts = BundledTraining("digits").describe()
    assert facts["data"] == "digits"
    assert facts["data.rows"] == "1797"
    assert facts["data.features"] == "1x8x8"
    assert facts["data.classes"] == "10"
    assert len(facts["data.sha256"]) == 64
    assert all(isinstance(value, str) for value in facts.values())


def test_it_is_cheap_to_pickle_and_works_afterwards(channel: MemoryChannel) -> None:
    training = BundledTraining("wine")
    training.prepare()
    pickled = pickle.dumps(training)
    assert len(pickled) < 1000
    run(pickle.loads(pickled), SMALL, channel, stop=1)
    assert 1 in channel.reports


def test_workers_notice_that_the_data_changed(tmp_path: Path, channel: MemoryChannel) -> None:
    path = tmp_path / "data.npz"
    X = np.random.default_rng(0).normal(size=(20, 3))
    np.savez(path, X=X, y=np.arange(20) % 2)
    training = BundledTraining(str(path))
    training.prepare()
    np.savez(path, X=X + 1, y=np.arange(20) % 2)
    BundledTraining(str(path)).prepare()  # loads anew, as another process would
    with pytest.raises(RuntimeError, match=r"the data .* changed since the study began"):
        run(training, {}, channel, stop=1)


def test_bad_hyperparameters_are_told(channel: MemoryChannel) -> None:
    with pytest.raises(ConfigError, match="optimizer: allowed"):
        run(BundledTraining("wine"), {"optimizer": "foo"}, channel, stop=1)


def test_divergence_is_reported_as_nan_and_fails_the_trial(channel: MemoryChannel) -> None:
    params = {"optimizer": "sgd", "learning_rate": 100.0, "normalisation": "none", "schedule": "constant"}
    with pytest.raises(RuntimeError, match=r"training diverged: train_loss .* in epoch"):
        run(BundledTraining("diabetes"), params, channel, stop=20)
    last = channel.reports[max(channel.reports)]
    assert math.isnan(last["val_loss"])
    assert math.isnan(last["val_rmse"])
    assert channel.newest is None or channel.newest[0] < max(channel.reports)


def test_a_stopped_trial_ends_at_once(channel: MemoryChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "report", lambda epoch, metrics: epoch < 2)
    with pytest.raises(TrialStopped):
        run(BundledTraining("wine"), SMALL, channel, stop=9)
    assert channel.newest is not None
    assert channel.newest[0] == 2


def test_the_checkpoint_holds_tensors_and_plain_types_and_rebuilds_the_model(channel: MemoryChannel) -> None:
    training = BundledTraining("wine")
    run(training, SMALL, channel, stop=3)
    assert channel.newest is not None
    state = torch.load(channel.newest[1], weights_only=True)
    assert state["epoch"] == 3
    assert state["params"]["width"] == 8
    data = training.dataset()
    from sklearn.datasets import load_wine

    raw = load_wine(as_frame=True).data
    predicted = Predictor(read_checkpoint(channel.newest[1])).predict(raw)
    assert predicted.shape == (178, 4)
    assert np.allclose(predicted.filter(like="probability").sum(axis=1), 1)
    val = [row.tobytes() for row in data.X_val]
    rows = [row.tobytes() in val for row in data.preprocessor.transform(raw)]
    right = predicted["prediction"][rows].to_numpy() == load_wine().target[rows]
    assert right.mean() == channel.reports[3]["val_accuracy"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"cannot read the checkpoint broken\.pt"):
        read_checkpoint(path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "pwned",))

    path = tmp_path / "evil.pt"
    torch.save({"format": 1, "model": Evil()}, path)
    with pytest.raises(RuntimeError, match="cannot read the checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


def test_foreign_checkpoints_are_refused(channel: MemoryChannel, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(RuntimeError, match="is not a checkpoint of this training"):
        read_checkpoint(path)
    run(BundledTraining("wine"), SMALL, channel, stop=1)
    with pytest.raises(RuntimeError, match="belongs to another configuration or to other data"):
        run(BundledTraining("wine"), {"width": 16}, channel, stop=2)
    with pytest.raises(RuntimeError, match="belongs to another configuration or to other data"):
        run(BundledTraining("breast_cancer"), SMALL, channel, stop=2)


def test_the_schedule_outlives_its_horizon(channel: MemoryChannel) -> None:
    for schedule in ("cosine", "onecycle"):
        factors = [learning_rate_factor(schedule, at / 10) for at in range(21)]
        assert all(0 < factor <= 1 for factor in factors)
        assert len(set(factors[10:])) == 1
    run(BundledTraining("wine", max_epochs=1), {**SMALL, "schedule": "cosine"}, channel, stop=3)
    assert len(channel.reports) == 3


@pytest.mark.parametrize("size", [1, 3, 8, 28, 33])
@pytest.mark.parametrize("layers", [1, 2, 5])
def test_images_of_any_size_fit_the_cnn(size: int, layers: int) -> None:
    model = build_model((2, size, size + 5), 4, layers=layers, width=6, dropout=0.0, normalisation="layer")
    assert model(torch.zeros(3, 2, size, size + 5)).shape == (3, 4)


@pytest.mark.parametrize("batch_size", [2, 3, 11, 1000])
def test_no_batch_has_a_single_row(batch_size: int, tmp_path: Path, channel: MemoryChannel) -> None:
    path = tmp_path / "odd.npz"  # 17 rows to train on: 8 batches of two would leave one
    np.savez(path, X=np.random.default_rng(0).normal(size=(21, 2)), y=np.arange(21) % 2)
    training = BundledTraining(str(path))
    assert len(training.dataset().y_train) == 17
    run(training, {"batch_size": batch_size, "normalisation": "batch"}, channel, stop=1)
    assert math.isfinite(channel.reports[1]["val_loss"])


def test_bf16_trains_and_resumes(images: str, tmp_path: Path) -> None:
    whole, paused = MemoryChannel(tmp_path), MemoryChannel(tmp_path)
    training = BundledTraining(images, bf16=True, max_epochs=3)
    run(training, SMALL, whole, stop=3)
    for stop in (2, 3):
        run(training, SMALL, paused, stop=stop)
    assert whole.curve == paused.curve
    assert whole.reports[3]["train_loss"] < whole.reports[1]["train_loss"]


def test_compiled_models_are_checkpointed_like_others(
    channel: MemoryChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []

    def compile_nothing(forward: Any) -> Any:
        compiled.append(forward)
        return forward

    monkeypatch.setattr(torch, "compile", compile_nothing)
    run(BundledTraining("wine", compiled=True), SMALL, channel, stop=1)
    monkeypatch.undo()
    assert len(compiled) == 1
    run(BundledTraining("wine"), SMALL, channel, stop=2)
    assert sorted(channel.reports) == [1, 2]


def test_the_bundled_search_fits_the_training(channel: MemoryChannel) -> None:
    text = (Path(mlflow_hpo.training.__file__).parent / "search.yaml").read_text()
    search = yaml.safe_load(text)
    space = SearchSpace(search["space"])
    training = BundledTraining(search["data"], max_epochs=search["max_resource"])
    training.check_params(space)
    assert set(space) == set(NAMES)
    assert "momentum" in space.active({"optimizer": "sgd"})
    assert "momentum" not in space.active({"optimizer": "adam"})
    params = space.sample(np.random.default_rng(0))
    training(Trial(params, stop=1, seed=0, device="cpu", channel=channel))
    assert 1 in channel.reports
