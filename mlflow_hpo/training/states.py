"""What a checkpoint holds of a trial in training, and how a trial that diverged is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from mlflow_hpo.packing import Trained
from mlflow_hpo.training.flat import Layout
from mlflow_hpo.training.optimizers import Rates, from_torch, to_torch
from mlflow_hpo.training.pack import CLOCKED, Member

P = TypeVar("P")


def to_state(member: Member[P], rates: Rates) -> dict[str, Any]:
    """Return the state of a trial as tensors and plain types."""
    layout = Layout(member.model)
    parts = {**layout.parts(member.weights), **member.buffers}
    cuda = member.weights.is_cuda
    return {
        "model": {name: parts[name].clone() for name in member.model.state_dict()},
        "optimizer": to_torch(rates, layout, member.moments, member.step),
        "schedule": {"step": member.step, "horizon": member.horizon},
        "rng": {
            "torch": torch.Generator().get_state() if cuda else member.dropout,
            "shuffle": member.shuffle,
            "cuda": member.dropout if cuda else None,
        },
    }


def from_state(member: Member[P], rates: Rates, state: Mapping[str, Any], like: Tensor) -> Member[P]:
    """Return a trial as `to_state` had it.

    The horizon of the schedule is the state's: a longer one would make the learning rate jump.

    Args:
        member: the trial as it began.
        rates: how its weights move.
        state: of it.
        like: a tensor of the type and on the device of the weights.
    """
    layout, rng = Layout(member.model), state["rng"]
    drawn = rng["cuda"] if like.is_cuda else rng["torch"]
    return replace(
        member,
        weights=layout.flat(state["model"], like=like),
        moments=from_torch(rates, layout, state["optimizer"], like),
        buffers={
            name: state["model"][name].to(value.device, value.dtype) for name, value in member.buffers.items()
        },
        step=state["schedule"]["step"],
        horizon=state["schedule"]["horizon"],
        shuffle=rng["shuffle"],
        dropout=member.dropout if drawn is None else drawn,
    )


def judged(member: Member[P], metrics: dict[str, float]) -> Trained[Member[P]]:
    """Return what an epoch made of a trial; one that diverged has NaN for its scores."""
    if math.isfinite(metrics["train_loss"]) and math.isfinite(metrics["val_loss"]):
        return Trained(member, metrics)
    # accuracies of a broken model are finite and would be believed
    scores = [name for name in metrics if name not in ("train_loss", *CLOCKED)]
    losses = f"train_loss {metrics['train_loss']:g}, val_loss {metrics['val_loss']:g}"
    return Trained(member, metrics | dict.fromkeys(scores, math.nan), f"training diverged: {losses}")
