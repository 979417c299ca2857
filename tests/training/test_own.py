"""A model of one's own, alone and in packs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training.memory import CLOCKED, MemoryChannel

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.training.packed import PackedTrainable
from mlflow_hpo.trial import Trial

TRIALS, EPOCHS = 12, 3


class Gated(nn.Module):
    """Layers that no `nn.Sequential` has, with everything that has a state."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(6, width)
        self.gate = nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.inner(x)) * torch.sigmoid(self.gate(x))
        outputs: Tensor = self.outer(self.dropout(hidden))
        return outputs


def model(params: Mapping[str, Any]) -> nn.Module:
    return Gated(params["width"], params["dropout"]).double()


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).double().mean()


def data() -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6))
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
    return X[:200], y[:200], X[200:], y[200:]


@pytest.fixture(scope="module")
def training() -> PackedTrainable:
    return PackedTrainable(model, F.cross_entropy, data, scores={"accuracy": accuracy}, max_epochs=EPOCHS)


def configurations(**common: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    return [
        {
            "width": 8,
            "dropout": float(rng.uniform(0.1, 0.5)),
            "learning_rate": float(10 ** rng.uniform(-3, -1.5)),
            "weight_decay": float(10 ** rng.uniform(-6, -2)),
            "momentum": float(rng.uniform(0.1, 0.9)),
            "beta1": float(rng.uniform(0.5, 0.95)),
            "beta2": float(rng.uniform(0.9, 0.999)),
            "schedule": str(rng.choice(["constant", "cosine", "onecycle"])),
            **common,
        }
        for _ in range(TRIALS)
    ]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_metric_is_as_if_alone(training: PackedTrainable, optimizer: str, tmp_path: Path) -> None:
    packs = training.packs("cpu")
    configs = configurations(optimizer=optimizer)
    assert len({training.pack_key(config) for config in configs}) == 1
    members = [packs.begin(config, seed, None) for seed, config in enumerate(configs)]
    curves: list[dict[int, dict[str, float]]] = [{} for _ in configs]
    for epoch in range(1, EPOCHS + 1):
        for at, trained in enumerate(packs.epoch(members)):
            members[at] = trained.member
            curves[at][epoch] = trained.metrics
    for seed, (config, curve) in enumerate(zip(configs, curves, strict=True)):
        channel = MemoryChannel(tmp_path)
        for stop in (1, EPOCHS):  # through a checkpoint
            training(Trial(config, stop=stop, seed=seed, device="cpu", channel=channel))
        for epoch, metrics in curve.items():
            alone = channel.reports[epoch]
            assert metrics.keys() == alone.keys() == {"train_loss", "val_loss", "accuracy", *CLOCKED}
            for name in metrics.keys() - set(CLOCKED):
                assert metrics[name] == pytest.approx(alone[name], rel=1e-9)


def test_it_learns(training: PackedTrainable, channel: MemoryChannel) -> None:
    params = {"width": 16, "dropout": 0.0, "learning_rate": 0.02, "batch_size": 16}
    training(Trial(params, stop=20, seed=0, device="cpu", channel=channel))
    assert channel.reports[20]["accuracy"] > 0.8
    assert channel.reports[20]["val_loss"] < channel.reports[1]["val_loss"]


def test_models_that_are_not_alike_are_no_pack(training: PackedTrainable) -> None:
    one = {"width": 8, "learning_rate": 0.1, "dropout": 0.1}
    key = training.pack_key(one)
    assert training.pack_key({**one, "learning_rate": 0.2, "dropout": 0.3, "schedule": "cosine"}) == key
    for other in ({"width": 9}, {"batch_size": 32}, {"optimizer": "sgd"}, {"dropout": 0.0}):
        assert training.pack_key({**one, **other}) != key


def test_wrong_values_are_told(training: PackedTrainable, channel: MemoryChannel) -> None:
    with pytest.raises(ConfigError, match="beta1: must be a number from 0 to 0.9999, got 2"):
        training(Trial({"beta1": 2}, stop=1, seed=0, device="cpu", channel=channel))
    with pytest.raises(ConfigError, match="scores: must not be called val_loss"):
        PackedTrainable(model, F.cross_entropy, data, scores={"val_loss": accuracy})


def test_a_checkpoint_of_another_configuration_is_refused(
    training: PackedTrainable, channel: MemoryChannel
) -> None:
    params = {"width": 8, "dropout": 0.0}
    training(Trial(params, stop=1, seed=0, device="cpu", channel=channel))
    with pytest.raises(RuntimeError, match="the checkpoint belongs to another configuration"):
        training(Trial({**params, "width": 9}, stop=2, seed=0, device="cpu", channel=channel))
