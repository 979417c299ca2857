"""What is computed of a trial does not depend on who else is in its pack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training.memory import CLOCKED

from mlflow_hpo.training.bundled import BundledTraining
from mlflow_hpo.training.checkpoint import read_checkpoint
from mlflow_hpo.training.loop import BundledMember, BundledPacks, to_device
from mlflow_hpo.training.pack import DeviceData

TRIALS = 32
EPOCHS = 4
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
Curve = dict[int, dict[str, float]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, X=rng.normal(size=(60, 8, 8)) + y[:, None, None], y=y)
    return str(path)


def packs_of(data: str, dtype: torch.dtype) -> BundledPacks:
    dataset = BundledTraining(data).dataset()
    whole = to_device(dataset, "cpu")
    parts = (whole.X_train, whole.y_train, whole.X_val, whole.y_val)
    typed = DeviceData(*(part.to(dtype) if part.is_floating_point() else part for part in parts))
    return BundledPacks(dataset, typed, max_epochs=EPOCHS)


def configurations(seed: int, optimizer: str, **common: Any) -> list[dict[str, Any]]:
    """Some that fit into one pack, with all that may be different in it."""
    rng = np.random.default_rng(seed)
    family = ["sgd"] if optimizer == "sgd" else ["adam", "adamw"]
    return [
        {
            "optimizer": str(rng.choice(family)),
            "learning_rate": float(10 ** rng.uniform(-4, -1.5)),
            "weight_decay": float(10 ** rng.uniform(-6, -2)),
            "momentum": float(rng.uniform(0, 0.98)),
            "dropout": float(rng.uniform(0.05, 0.5)),
            "label_smoothing": float(rng.uniform(0, 0.2)),
            "schedule": str(rng.choice(["constant", "cosine", "onecycle"])),
            **common,
        }
        for _ in range(TRIALS)
    ]


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in CLOCKED}


def alone(packs: BundledPacks, configs: Sequence[dict[str, Any]]) -> list[Curve]:
    curves = []
    for seed, config in enumerate(configs):
        member, curve = packs.begin(config, seed, None), {}
        for epoch in range(1, EPOCHS + 1):
            (trained,) = packs.epoch([member])
            member, curve[epoch] = trained.member, timeless(trained.metrics)
        curves.append(curve)
    return curves


def packed(
    packs: BundledPacks, configs: Sequence[dict[str, Any]], rng: np.random.Generator, folder: Path
) -> list[Curve]:
    """Train in rounds in which each trial may be there or not; some go through a checkpoint in between."""
    members: dict[int, BundledMember] = {}
    curves: list[Curve] = [{} for _ in configs]
    while left := [at for at, curve in enumerate(curves) if len(curve) < EPOCHS]:
        there = [at for at in left if rng.random() < 0.7]
        for at in there:
            if at not in members:
                members[at] = packs.begin(configs[at], at, None)
            elif rng.random() < 0.2:
                packs.save(members[at], len(curves[at]), folder / "checkpoint")
                members[at] = packs.begin(configs[at], at, folder / "checkpoint")
        if there:
            rng.shuffle(there)
            for at, trained in zip(there, packs.epoch([members[at] for at in there]), strict=True):
                members[at] = trained.member
                curves[at][len(curves[at]) + 1] = timeless(trained.metrics)
    return curves


def furthest(curves: list[Curve], others: list[Curve]) -> float:
    """Return the largest relative difference of any metric of any epoch of any trial."""
    worst = 0.0
    for curve, other in zip(curves, others, strict=True):
        assert curve.keys() == other.keys()
        for epoch, metrics in curve.items():
            assert metrics.keys() == other[epoch].keys()
            for name, value in metrics.items():
                if value != other[epoch][name] and not np.isnan([value, other[epoch][name]]).all():
                    worst = max(worst, abs(value - other[epoch][name]) / abs(value))
    return worst


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(["table", "numbers", "images"]),
    optimizer=st.sampled_from(["adam", "sgd"]),
    normalisation=st.sampled_from(["none", "batch", "layer"]),
    batch_size=st.integers(8, 64),
    layers=st.integers(1, 3),
    width=st.sampled_from([2, 5, 8, 12, 16, 17]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_every_metric_is_as_if_alone(
    seed: int,
    kind: str,
    optimizer: str,
    normalisation: str,
    batch_size: int,
    layers: int,
    width: int,
    dtype: torch.dtype,
    images: str,
    tmp_path: Path,
) -> None:
    packs = packs_of({"table": "wine", "numbers": "diabetes", "images": images}[kind], dtype)
    configs = configurations(
        seed,
        optimizer,
        normalisation=normalisation,
        batch_size=batch_size,
        layers=layers,
        width=width,
    )
    curves = packed(packs, configs, np.random.default_rng(seed), tmp_path)
    assert furthest(alone(packs, configs), curves) <= TOLERANCE[dtype]


def test_one_that_diverges_touches_no_other() -> None:
    packs = packs_of("diabetes", torch.float32)
    base = {"optimizer": "sgd", "normalisation": "none", "schedule": "constant", "momentum": 0.9}
    configs = [{**base, "learning_rate": rate} for rate in (1e-3, 100.0, 1e-2)]
    members = [packs.begin(config, seed, None) for seed, config in enumerate(configs)]
    single = packs.begin(configs[2], 2, None)
    for _ in range(6):
        done = packs.epoch(members)
        members = [trained.member for trained in done]
        (trained,) = packs.epoch([single])
        single = trained.member
        assert timeless(done[2].metrics) == timeless(trained.metrics)
    assert done[1].failure.startswith("training diverged: train_loss ")
    assert np.isnan(done[1].metrics["val_rmse"])
    assert not done[0].failure
    assert not done[2].failure


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch multiplies without MKL")
def test_products_are_the_same_with_any_number_of_threads() -> None:
    packs, threads = packs_of("diabetes", torch.float32), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            (trained,) = packs.epoch([packs.begin({"dropout": 0.1}, 7, None)])
            found.append((trained.metrics["train_loss"], trained.member.weights.tolist()))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]


def test_an_epoch_that_broke_off_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    packs = packs_of("wine", torch.float32)
    members = [packs.begin({"dropout": 0.3}, seed, None) for seed in range(3)]
    expected = [timeless(trained.metrics) for trained in packs.epoch(members)]
    calls = 0

    def breaks_off(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("mlflow_hpo.training.optimizers.Stepper.step", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        packs.epoch(members)
    monkeypatch.undo()
    assert [timeless(trained.metrics) for trained in packs.epoch(members)] == expected


def test_a_key_tells_who_fits_together() -> None:
    training = BundledTraining("digits")
    key = training.pack_key({"learning_rate": 0.1, "optimizer": "adam", "batch_size": 64})
    assert training.pack_key({"learning_rate": 0.2, "optimizer": "adamw", "batch_size": 65}) == key
    assert training.pack_key({"schedule": "onecycle", "optimizer": "adamw", "label_smoothing": 0.1}) == key
    for other in ({"optimizer": "sgd"}, {"batch_size": 128}, {"width": 33}, {"layers": 3}, {"dropout": 0}):
        assert training.pack_key(other) != key


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_checkpoints_are_those_of_torchs_optimizers(optimizer: str, tmp_path: Path) -> None:
    packs = packs_of("wine", torch.float32)
    member = packs.begin({"optimizer": optimizer, "dropout": 0.1}, 0, None)
    (trained,) = packs.epoch([member])
    packs.save(trained.member, 1, tmp_path / "checkpoint")
    state = read_checkpoint(tmp_path / "checkpoint")
    from mlflow_hpo.training.models import build_model

    model = build_model(**state["architecture"])
    model.load_state_dict(state["model"])
    if optimizer == "sgd":
        own: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), 1.0, 0.9, nesterov=True)
    else:
        kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.Adam
        own = kind(model.parameters(), 1.0, fused=True)
    own.load_state_dict(state["optimizer"])
    assert own.param_groups[0]["lr"] == 3e-3
    for parameter in model.parameters():
        for value in own.state[parameter].values():
            assert torch.isfinite(value).all()
            assert value.shape in (parameter.shape, ())
        parameter.grad = torch.ones_like(parameter)
    own.step()
