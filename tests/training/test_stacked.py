"""Stacked layers compute what those of torch do."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from mlflow_hpo.training.models import build_model
from mlflow_hpo.training.stacked import Stacked


@pytest.mark.parametrize("shape", [(5,), (1, 8, 8), (2, 9, 11), (3, 4, 4)])
@pytest.mark.parametrize("normalisation", ["none", "batch", "layer"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("width", "trials"), [(4, 3), (8, 10), (16, 1), (17, 2)])
@pytest.mark.parametrize("maps", [True, False])  # without them as on a GPU
def test_outputs_buffers_and_gradients_are_torchs(
    shape: tuple[int, ...], normalisation: str, training: bool, width: int, trials: int, maps: bool
) -> None:
    def build() -> torch.nn.Module:
        model = build_model(
            shape, 3, layers=2, width=width, dropout=0.0, normalisation=normalisation
        ).double()
        return model.train(training)

    torch.manual_seed(0)
    models = [build() for _ in range(trials)]
    x = torch.randn(trials, 6, *shape, dtype=torch.float64).round(decimals=1)
    parameters = [dict(model.named_parameters()) for model in models]
    weights = {name: torch.stack([own[name].detach() for own in parameters]) for name in parameters[0]}
    buffers = {
        name: torch.stack([dict(model.named_buffers())[name].clone() for model in models])
        for name, _ in models[0].named_buffers()
    }
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    stacked = Stacked(models[0].named_children())
    if not maps:
        stacked._maps = None
    outputs = stacked(leaves, buffers, x, [], training=training)
    found = torch.autograd.grad(outputs.sin().sum(), list(leaves.values()))
    for at, model in enumerate(models):
        expected = functional_call(model, {}, (x[at],))
        assert torch.allclose(outputs[at], expected, rtol=1e-9)
        gradients = torch.autograd.grad(expected.sin().sum(), list(model.parameters()))
        for own, other in zip(found, gradients, strict=True):
            assert torch.allclose(own[at], other, rtol=1e-9, atol=1e-12)
        for name, value in model.named_buffers():
            assert torch.allclose(buffers[name][at], value, rtol=1e-9)
