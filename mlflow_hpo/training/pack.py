"""The trainer: one epoch of several trials at once. A trial alone is a pack of one.

What a trial is between two epochs is a `Member`, which nothing changes: an epoch makes new ones of them. So
trials join and leave by being there or not, and an epoch that broke off is as if it had never begun.

Each trial draws its initial weights, the order of its rows and its dropout from generators of its own, and
no operation mixes trials: what is computed of one does not depend on its neighbours.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from mlflow_hpo.training.flat import Layout
from mlflow_hpo.training.optimizers import Rates, Stepper
from mlflow_hpo.training.schedules import steps_in_epoch

CHUNK = 1 << 19  # numbers of one trial's widest layer that are computed at once in validation
DRAWN = 1 << 18  # numbers of one trial's dropout that are drawn at once
CLOCKED = ("epoch_seconds", "samples_per_second")  # metrics that depend on the clock
_LOWEST = -(1 << 63)

P = TypeVar("P")
Q = TypeVar("Q", contravariant=True)


@dataclass(frozen=True)
class DeviceData:
    """A data set as tensors on one device, kept for all trials of a process.

    The type of `X_train`, where it has floats, is that in which models are trained, whatever they were.
    """

    X_train: Tensor
    y_train: Tensor
    X_val: Tensor
    y_val: Tensor

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.X_train.device

    @property
    def like(self) -> Tensor:
        """A number of the type and on the device of the models."""
        return self.X_train.new_empty((), dtype=None if self.X_train.is_floating_point() else torch.float32)


class Forward(Protocol):
    """The function of a model, for several trials with weights of their own; see `Stacked`."""

    def __call__(
        self,
        weights: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        x: Tensor,
        masks: Sequence[Tensor],
        *,
        training: bool,
    ) -> Tensor:
        """Return the outputs, shape (trials, rows, ...)."""


class Task(Protocol[Q]):
    """What is to be learnt, and how a configuration says so. Its functions are pure."""

    def build(self, params: Q) -> nn.Module:
        """Return a new model, its weights drawn from torch's default generator of the CPU."""

    def forward(self, model: nn.Module) -> Forward:
        """Return the function of models like this one."""

    def rates(self, params: Q) -> Rates:
        """Return how its weights move."""

    def batch_size(self, params: Q) -> int:
        """Return how many rows a step has at most."""

    def losses(self, outputs: Tensor, targets: Tensor, params: Sequence[Q]) -> Tensor:
        """Return the loss that each trial trains on, shape (trials,).

        Args:
            outputs: shape (trials, rows, ...).
            targets: shape (trials, rows, ...).
            params: of each trial.
        """

    def scores(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the validation metrics of one trial; shapes (rows, ...)."""


@dataclass(frozen=True)
class Member(Generic[P]):
    """One trial between two epochs.

    Attributes:
        params: its configuration.
        model: on the device "meta": names and shapes.
        weights: all parameters, as `Layout` has them.
        moments: what its optimizer keeps, likewise.
        buffers: of the model, by name.
        step: how many steps it has made.
        horizon: over how many epochs its schedule goes.
        shuffle, dropout: states of the generators of the order of rows, and of dropout.
    """

    params: P
    model: nn.Module
    weights: Tensor
    moments: tuple[Tensor, ...]
    buffers: Mapping[str, Tensor]
    step: int
    horizon: int
    shuffle: Tensor
    dropout: Tensor


class Trainer(Generic[P]):
    """Trains trials of one task on one device.

    Args:
        task: what is learnt.
        data: what it is learnt from.
        bf16: run the forward pass in bfloat16 where that is safe (`torch.autocast`).
        compiled: `torch.compile` the forward pass.
    """

    def __init__(
        self, task: Task[P], data: DeviceData, *, bf16: bool = False, compiled: bool = False
    ) -> None:
        self._task = task
        self._data = data
        self._bf16 = bf16
        self._compiled = compiled
        self._plans: WeakKeyDictionary[nn.Module, _Plan] = WeakKeyDictionary()

    def begin(self, params: P, seed: int, horizon: int) -> Member[P]:
        """Return a trial before its first epoch.

        Args:
            params: its configuration.
            seed: decides all that is drawn for it.
            horizon: of its schedule, in epochs.
        """
        data, device = self._data, self._data.device
        with torch.random.fork_rng(devices=[]):  # other users of the generator get it back
            torch.manual_seed(seed)
            model = self._task.build(params)
            drawn = torch.get_rng_state()
        weights = Layout(model).flat(dict(model.named_parameters()), like=data.like)
        buffers = {name: self._placed(value) for name, value in model.named_buffers()}
        generator = torch.Generator(device)
        if device.type == "cpu":
            generator.set_state(drawn)
        else:
            generator.manual_seed(seed)
        return Member(
            params,
            model.to("meta", data.like.dtype),
            weights,
            tuple(torch.zeros_like(weights) for _ in self._task.rates(params).moments),
            buffers,
            0,
            horizon,
            torch.Generator().manual_seed(seed).get_state(),
            generator.get_state(),
        )

    def epoch(self, members: Sequence[Member[P]]) -> list[tuple[Member[P], dict[str, float]]]:
        """Train trials for one epoch and validate them.

        Args:
            members: of the same structure, family of optimizers and number of steps; at least one.

        Returns:
            For each what it is then, and its metrics: `train_loss`, what the task scores, and
            `epoch_seconds` and `samples_per_second`, by the clock of all of them together.
        """
        begin = time.perf_counter()
        pack = _Pack(self._task, self._data, members, self._plan(members[0].model), bf16=self._bf16)
        losses = pack.train()
        trained = time.perf_counter()
        scores = pack.validate()
        rate = len(self._data.y_train) / max(trained - begin, 1e-9)
        clocked = dict(zip(CLOCKED, (time.perf_counter() - begin, rate), strict=True))
        metrics = [
            {"train_loss": loss, **scored, **clocked} for loss, scored in zip(losses, scores, strict=True)
        ]
        return list(zip(pack.members(), metrics, strict=True))

    def _placed(self, value: Tensor) -> Tensor:
        like = self._data.like
        return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)

    def _plan(self, model: nn.Module) -> _Plan:
        if model not in self._plans:
            forward = self._task.forward(model)
            compiled: Forward = torch.compile(forward.__call__) if self._compiled else forward
            self._plans[model] = _Plan.of(model, compiled, self._data.X_train)
        return self._plans[model]


@dataclass(frozen=True)
class _Plan:
    """What the models of a pack have in common.

    `dropped` are the shapes of one row where dropout layers stand, `widest` the most numbers that any layer
    makes of one row.
    """

    forward: Forward
    layout: Layout
    dropped: list[tuple[int, ...]]
    widest: int

    @classmethod
    def of(cls, model: nn.Module, forward: Forward, X: Tensor) -> _Plan:
        """Look at what the layers of a model make of a row."""
        # made of zeros rather than passed on "meta", for which torch would import its compiler
        blank = copy.deepcopy(model).to_empty(device=X.device).eval()
        dropped: dict[nn.Module, tuple[int, ...]] = {}
        dropped |= dict.fromkeys(dropouts_of(blank), (1,))  # of one that is never asked
        sizes = [X[0].numel()]

        def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
            if isinstance(layer, nn.Dropout):
                dropped[layer] = tuple(inputs[0].shape[1:])
            if isinstance(output, Tensor):
                kernel = 9 if isinstance(layer, nn.Conv2d) else 1
                sizes.append(kernel * max(inputs[0].numel(), output.numel()))

        for layer in blank.modules():
            if layer is not blank:
                layer.register_forward_hook(look)
        with torch.no_grad():
            for value in (*blank.parameters(), *blank.buffers()):
                value.zero_()
            blank(X[:1])
        return cls(forward, Layout(model), list(dropped.values()), max(sizes))


class _Pack(Generic[P]):
    """The stacked state of some trials during one epoch."""

    def __init__(
        self,
        task: Task[P],
        data: DeviceData,
        members: Sequence[Member[P]],
        plan: _Plan,
        *,
        bf16: bool,
    ) -> None:
        self._task = task
        self._data = data
        self._members = members
        self._params = [member.params for member in members]
        self._plan = plan
        self._bf16 = bf16
        self._weights = torch.stack([member.weights for member in members]).requires_grad_()
        self._moments = [torch.stack(each) for each in zip(*(m.moments for m in members), strict=True)]
        self._buffers = {
            name: torch.stack([member.buffers[name] for member in members]) for name in members[0].buffers
        }
        self._shuffles = [torch.Generator().set_state(member.shuffle) for member in members]
        self._dropouts = [torch.Generator(data.device).set_state(member.dropout) for member in members]
        self._steps = steps_in_epoch(len(data.y_train), task.batch_size(self._params[0]))

    def train(self) -> list[float]:
        """Make the steps of one epoch; return each trial's mean loss."""
        data, rows = self._data, len(self._data.y_train)
        orders = torch.stack([torch.randperm(rows, generator=each) for each in self._shuffles])
        batches = [part.to(data.device) for part in torch.tensor_split(orders, self._steps, dim=1)]
        stepper = Stepper(
            [self._task.rates(params) for params in self._params],
            [member.step for member in self._members],
            [member.horizon * self._steps for member in self._members],
            self._steps,
            self._weights,
        )
        masks = _Masks(self._plan.dropped, self._rates_of_dropout(), self._dropouts, self._weights)
        total = torch.zeros(len(self._members), dtype=self._weights.dtype, device=data.device)
        for at, batch in enumerate(batches):
            kept = masks.next([part.shape[1] for part in batches[at:]])
            outputs = self._forward(_rows(data.X_train, batch), kept, training=True)
            losses = self._task.losses(outputs, _rows(data.y_train, batch), self._params)
            (gradient,) = torch.autograd.grad(losses.sum(), self._weights)
            with torch.no_grad():
                stepper.step(at, self._weights, gradient, self._moments)
                total += losses * batch.shape[1]  # stays on the device: no wait for it in each step
        return [float(each) / rows for each in total.tolist()]

    @torch.no_grad()
    def validate(self) -> list[dict[str, float]]:
        """Return each trial's scores."""
        X, y = self._data.X_val, self._data.y_val
        trials = len(self._members)
        # of a size that does not depend on the number of trials
        chunks = torch.split(X, max(1, CHUNK // self._plan.widest))
        parts = [self._forward(chunk.expand(trials, *chunk.shape), [], training=False) for chunk in chunks]
        return [self._task.scores(outputs, y) for outputs in torch.cat(parts, dim=1)]

    def members(self) -> list[Member[P]]:
        """Return what the trials are now."""
        weights = self._weights.detach().unbind()
        moments = zip(*(moment.unbind() for moment in self._moments), strict=True)
        return [
            replace(
                member,
                weights=own_weights,
                moments=own_moments,
                buffers={name: stacked[at] for name, stacked in self._buffers.items()},
                step=member.step + self._steps,
                shuffle=self._shuffles[at].get_state(),
                dropout=self._dropouts[at].get_state(),
            )
            for at, (member, own_weights, own_moments) in enumerate(
                zip(self._members, weights, moments, strict=True)
            )
        ]

    def _forward(self, x: Tensor, masks: Sequence[Tensor], *, training: bool) -> Tensor:
        weights = self._plan.layout.parts(self._weights)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._bf16):
            outputs = self._plan.forward(weights, self._buffers, x, masks, training=training)
        return outputs.float() if self._bf16 else outputs

    def _rates_of_dropout(self) -> list[list[float]]:
        return [[layer.p for layer in dropouts_of(member.model)] for member in self._members]


class _Masks:
    """Dropout masks, drawn for as many steps at once as fit in `DRAWN` numbers of one trial.

    Args:
        shapes: of one row, for each dropout layer.
        rates: for each trial and layer.
        generators: of each trial.
        like: a tensor of the type and on the device of the activations.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        rates: Sequence[Sequence[float]],
        generators: Sequence[torch.Generator],
        like: Tensor,
    ) -> None:
        self._shapes = shapes
        self._sizes = [int(np.prod(shape)) for shape in shapes]
        by_layer = torch.tensor(rates, dtype=torch.float64).view(len(generators), len(shapes)).T
        self._dropped = ((by_layer * (1 << 16)).round() - (1 << 15)).to(like.device, torch.int16)
        self._kept = (1 / (1 - by_layer)).to(like.device, like.dtype)
        self._generators = generators
        self._like = like
        self._left: list[list[Tensor]] = []  # of the steps that are drawn already, the next one last

    def next(self, batches: Sequence[int]) -> list[Tensor]:
        """Return what each layer multiplies by in the next step, shape (trials, *shape, rows).

        Args:
            batches: how many rows this step and those after it have.
        """
        if not self._shapes:
            return []
        if not self._left:
            steps = max(1, DRAWN // (sum(self._sizes) * batches[0]))
            self._left = self._draw(batches[:steps])[::-1]
        return [
            (bits >= dropped.view(-1, *[1] * (bits.dim() - 1)))
            .to(self._like.dtype)
            .mul_(kept.view(-1, *[1] * (bits.dim() - 1)))
            for bits, dropped, kept in zip(self._left.pop(), self._dropped, self._kept, strict=True)
        ]

    def _draw(self, batches: Sequence[int]) -> list[list[Tensor]]:
        """Draw 16 bits for each number, four at a time: rates of dropout are rounded to 1 / 65536."""
        sizes = [size * rows for rows in batches for size in self._sizes]
        drawn = torch.empty(
            len(self._generators), -(-sum(sizes) // 4), dtype=torch.int64, device=self._like.device
        )
        for own, generator in zip(drawn, self._generators, strict=True):
            own.random_(_LOWEST, None, generator=generator)  # all 64 bits
        parts = iter(torch.split(drawn.view(torch.int16)[:, : sum(sizes)], sizes, dim=1))
        return [[next(parts).view(-1, *shape, rows) for shape in self._shapes] for rows in batches]


def _rows(data: Tensor, batch: Tensor) -> Tensor:
    """Return rows of `data` for each trial, shape (trials, rows, ...), of their numbers (trials, rows)."""
    return data.index_select(0, batch.reshape(-1)).view(*batch.shape, *data.shape[1:])


def dropouts_of(model: nn.Module) -> list[nn.Dropout]:
    """Return the dropout layers of a model, in the order of their names."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Dropout)]
