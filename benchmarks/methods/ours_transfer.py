"""Any searcher and scheduler of this package, told of other tasks."""

from __future__ import annotations

from collections.abc import Mapping

from methods import MIN_EPOCHS
from methods.ours import Ours
from mlflow_hpo import History, Optimizer, SearchSpace


def make(
    space: SearchSpace,
    seed: int,
    max_epochs: int,
    *,
    history: History,
    features: Mapping[str, float],
    searcher: str,
    scheduler: str,
) -> Ours:
    """Return a search with a searcher and a scheduler by their names."""
    optimizer = Optimizer(
        space,
        mode="max",
        searcher=searcher,
        scheduler=scheduler,
        min_resource=MIN_EPOCHS,
        max_resource=max_epochs,
        seed=seed,
        history=history,
        task={"features": features},
    )
    return Ours(optimizer)
