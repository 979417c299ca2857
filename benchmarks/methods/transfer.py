"""The searches that are told of other tasks, ours and the peers', each behind `simulator.Method`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from simulator import Method

from methods import MIN_EPOCHS, Entry, fingerprint
from mlflow_hpo import History, SearchSpace


@dataclass(frozen=True)
class TransferEntry(Entry):
    """An `Entry` whose adapter makes the search of a `History` and the task's features, too."""

    @property
    def ours(self) -> bool:
        """Whether it depends on this package."""
        return self.package is None

    @property
    def version(self) -> str | None:
        """What traces of this search are filed under; None where the peer is not installed."""
        return fingerprint("metalearning") if self.ours else super().version

    def begin(
        self, space: SearchSpace, seed: int, max_epochs: int, history: History, features: Mapping[str, float]
    ) -> Method:
        """Return a new search; raises `ImportError` where the peer is not installed."""
        make: Callable[..., Method] = import_module(f"methods.{self.module}").make
        known: dict[str, Any] = {"history": history, "features": features}
        return make(space, seed, max_epochs, **known, **self.options)


def _ours(searcher: str, scheduler: str) -> TransferEntry:
    options = {"searcher": searcher, "scheduler": scheduler, "min_epochs": MIN_EPOCHS}
    return TransferEntry("ours", None, options)


_SYNE = "syne-tune<0.14"
TRANSFER = {
    "best-of-each": TransferEntry("portfolios", None, {"name": "best-of-each"}),
    "greedy": TransferEntry("portfolios", None, {"name": "greedy"}),
    "syne-rush": TransferEntry("syne_tune_transfer", _SYNE, {"name": "rush"}),
    "syne-zero-shot": TransferEntry("syne_tune_transfer", _SYNE, {"name": "zero-shot"}),
    "syne-bounding-box": TransferEntry("syne_tune_transfer", _SYNE, {"name": "bounding-box"}),
    "syne-quantile": TransferEntry("syne_tune_transfer", _SYNE, {"name": "quantile"}),
}
OURS = {
    "auto": _ours("auto", "auto"),
    "tpe+asha": _ours("tpe", "asha"),
}
