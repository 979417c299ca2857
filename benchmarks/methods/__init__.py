"""The searches that are compared, ours and the peers', each behind `simulator.Method`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from simulator import Method

from mlflow_hpo import SearchSpace

MIN_EPOCHS = 2  # the first rung of every multi-fidelity search, ours and the peers': epoch 1 tells too little


@dataclass(frozen=True)
class Entry:
    """How a search is made.

    Attributes:
        module: the adapter beside this file; it is imported only when needed, as peers need their packages.
        package: the distribution whose version decides what is measured, with the versions that have the
            method; None for what stands here.
        options: of the adapter's `make`.
    """

    module: str
    package: str | None
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, space: SearchSpace, seed: int, max_epochs: int) -> Method:
        """Return a new search; raises `ImportError` where the peer is not installed."""
        make: Callable[..., Method] = import_module(f"methods.{self.module}").make
        return make(space, seed, max_epochs, **self.options)

    @property
    def ours(self) -> bool:
        """Whether it is a search of this package."""
        return self.module == "ours"

    @property
    def version(self) -> str | None:
        """What traces of this search are filed under; None where the peer is not installed."""
        if self.ours:
            return fingerprint()
        if self.package is None:
            return "1"
        needed = Requirement(self.package)
        try:
            installed = version(needed.name)
        except PackageNotFoundError:
            return None
        return installed if needed.specifier.contains(installed) else None


METHODS = {
    "random": Entry("random", None),
    "hyperopt": Entry("hyperopt", "hyperopt"),
    "optuna-tpe": Entry("optuna", "optuna", {"sampler": "tpe"}),
    "optuna-tpe-hyperband": Entry("optuna", "optuna", {"sampler": "tpe", "pruner": "hyperband"}),
    "optuna-tpe-halving": Entry("optuna", "optuna", {"sampler": "tpe", "pruner": "halving"}),
    "optuna-gp": Entry("optuna", "optuna", {"sampler": "gp"}),
    "syne-asha": Entry("syne_tune", "syne-tune<0.14", {"name": "ASHA"}),
    "syne-bohb": Entry("syne_tune", "syne-tune<0.14", {"name": "BOHB"}),
    "syne-mobster": Entry("syne_tune", "syne-tune<0.14", {"name": "MOBSTER"}),
    "syne-hypertune": Entry("syne_tune", "syne-tune<0.14", {"name": "HyperTune"}),
    "syne-cqr": Entry("syne_tune_cqr", "syne-tune>=0.16"),
    "smac-mf": Entry("smac", "smac"),
    "ray-asha": Entry("ray", "ray"),
}


def method(name: str) -> Entry:
    """Return the search of a name: one of `METHODS`, or ``searcher+scheduler[@epochs]`` of this package.

    ``tpe+asha`` is the searcher tpe with the scheduler asha from `MIN_EPOCHS` on, ``tpe+asha@6`` from 6 on.

    Raises:
        KeyError: there is none.
    """
    if name in METHODS:
        return METHODS[name]
    searcher, plus, rest = name.partition("+")
    if not plus:
        raise KeyError(f"{name!r} is none of {', '.join(METHODS)}, nor of the form searcher+scheduler")
    scheduler, _, epochs = rest.partition("@")
    options = {"searcher": searcher, "scheduler": scheduler, "min_epochs": int(epochs or MIN_EPOCHS)}
    return Entry("ours", None, options)


@cache
def fingerprint(*rooms: str) -> str:
    """Return a digest of the engine's sources, as its version says too little while it is worked on.

    Args:
        rooms: folders of the package beside those of the engine.
    """
    import mlflow_hpo

    root = Path(mlflow_hpo.__file__).parent
    sources = [root / f"{name}.py" for name in ("space", "auto", "optimizer", "first_trials")]
    sources += [
        path for room in ("searchers", "schedulers", *rooms) for path in sorted((root / room).glob("*.py"))
    ]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return f"{version('mlflow-hpo')}-{digest[:8]}"
