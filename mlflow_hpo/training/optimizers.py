"""Adam, AdamW and SGD over the flat weights of several trials, each with rates of its own.

The formulas are those of `torch.optim`, and so is the form of what a checkpoint holds of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlflow_hpo.training.flat import Layout
from mlflow_hpo.training.schedules import learning_rate_factor

EPSILON = 1e-8


@dataclass(frozen=True)
class Rates:
    """How the weights of one trial move.

    Attributes:
        optimizer: adam, adamw or sgd.
        learning_rate: its peak, before the schedule.
        weight_decay: decoupled for adamw, L2 for the others.
        momentum: Nesterov momentum, of sgd only.
        beta1, beta2: of adam and adamw.
        schedule: see `learning_rate_factor`.
    """

    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: str = "constant"

    @property
    def family(self) -> str:
        """The same for trials whose steps are made together."""
        return family(self.optimizer)

    @property
    def moments(self) -> tuple[str, ...]:
        """Names, as torch has them, of what is kept of past gradients."""
        return ("momentum_buffer",) if self.family == "sgd" else ("exp_avg", "exp_avg_sq")


def family(optimizer: str) -> str:
    """Return the same for optimizers that can make a step together.

    >>> family("adamw"), family("sgd")
    ('adam', 'sgd')
    """
    return "sgd" if optimizer == "sgd" else "adam"


class Stepper:
    """Makes the steps of several trials of one family, for one epoch.

    Args:
        rates: of each trial.
        done: steps that each trial made before.
        horizons: steps over which each one's schedule goes.
        steps: of this epoch.
        like: a tensor of the type and on the device of the weights.
    """

    def __init__(
        self, rates: Sequence[Rates], done: Sequence[int], horizons: Sequence[int], steps: int, like: Tensor
    ) -> None:
        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)

        trials = list(zip(rates, done, horizons, strict=True))
        planned = [[_planned(*trial, step) for trial in trials] for step in range(steps)]
        table = torch.tensor(planned, dtype=torch.float64).to(like.device, like.dtype)
        self._planned = table.transpose(1, 2).unsqueeze(3)  # (steps, 4, trials, 1)
        self._adam = rates[0].family == "adam"
        self._decay = column([0.0 if each.optimizer == "adamw" else each.weight_decay for each in rates])
        self._momentum = column([each.momentum for each in rates])
        self._new1 = column([1 - each.beta1 for each in rates])
        self._new2 = column([1 - each.beta2 for each in rates])

    def step(self, at: int, weights: Tensor, gradient: Tensor, moments: Sequence[Tensor]) -> None:
        """Change `weights` and `moments`, all of shape (trials, numbers), in place by step `at`."""
        rate, kept, scale, size = self._planned[at]
        gradient = torch.addcmul(gradient, weights, self._decay)
        if self._adam:
            weights.mul_(kept)
            mean, square = moments
            mean.lerp_(gradient, self._new1)
            square.lerp_(gradient.square_(), self._new2)
            divisor = square.sqrt().mul_(scale).add_(EPSILON)
            weights.addcmul_(divisor.reciprocal_().mul_(mean), size, value=-1)
        else:
            (velocity,) = moments
            velocity.mul_(self._momentum).add_(gradient)
            weights.addcmul_(gradient.addcmul_(velocity, self._momentum), rate, value=-1)


def _planned(rates: Rates, done: int, horizon: int, at: int) -> tuple[float, float, float, float]:
    """Return of one step of one trial: its rate, what weights keep of themselves, 1 / sqrt(bias correction)
    of the squares, and the rate over the bias correction of the means.
    """
    rate = rates.learning_rate * learning_rate_factor(rates.schedule, (done + at) / horizon)
    count = done + at + 1
    kept = 1 - rate * rates.weight_decay if rates.optimizer == "adamw" else 1.0
    squares = 1 / math.sqrt(1 - rates.beta2**count)
    return rate, kept, squares, rate / (1 - rates.beta1**count)


def to_torch(rates: Rates, layout: Layout, moments: Sequence[Tensor], steps: int) -> dict[str, Any]:
    """Return the `state_dict` that an optimizer of torch would have."""
    state: dict[int, dict[str, Any]] = {}
    if steps and (rates.family == "adam" or rates.momentum):
        parts = [layout.parts(moment) for moment in moments]
        for at, name in enumerate(layout.names):
            kept = {of: part[name] for of, part in zip(rates.moments, parts, strict=True)}
            counted = {"step": torch.tensor(float(steps))} if rates.family == "adam" else {}
            state[at] = counted | kept
    group: dict[str, Any] = {"lr": rates.learning_rate, "weight_decay": rates.weight_decay}
    if rates.family == "adam":
        group |= {"betas": (rates.beta1, rates.beta2), "eps": EPSILON, "amsgrad": False, "maximize": False}
        group |= {"foreach": None, "capturable": False, "differentiable": False, "fused": True}
        group |= {"decoupled_weight_decay": rates.optimizer == "adamw"}
    else:
        group |= {"momentum": rates.momentum, "dampening": 0, "nesterov": rates.momentum > 0}
        group |= {"maximize": False, "foreach": None, "differentiable": False, "fused": None}
    return {"state": state, "param_groups": [{**group, "params": list(range(len(layout.names)))}]}


def from_torch(rates: Rates, layout: Layout, state: Mapping[str, Any], like: Tensor) -> tuple[Tensor, ...]:
    """Undo `to_torch`, for the moments."""
    found = [state["state"].get(at, {}) for at in range(len(layout.names))]
    return tuple(
        layout.flat(
            {
                name: kept[of]
                for name, kept in zip(layout.names, found, strict=True)
                if kept.get(of) is not None
            },
            like=like,
        )
        for of in rates.moments
    )
