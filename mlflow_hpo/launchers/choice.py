"""Which launcher `auto` stands for, and why."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from mlflow_hpo.launchers.packed import process_count
from mlflow_hpo.packing import Packable
from mlflow_hpo.space import SearchSpace

DRAWS = 256  # configurations that are looked at
PAYS = 2.0  # trials of a pack, on average


def choose_launcher(
    train: Any,
    space: SearchSpace,
    workers: int,
    gpus_per_trial: float | None,
    max_memory_fraction: float | None = None,
) -> tuple[str, str]:
    """Return the name of a launcher of this machine, and in a sentence why.

    Packed training pays where a trial has company: that is estimated from configurations drawn at random.

    Args:
        train: the training code.
        space: what is searched.
        workers: how many trials are trained at a time.
        gpus_per_trial, max_memory_fraction: as the study has them; the latter is for `local` alone.
    """
    if not isinstance(train, Packable):
        return "local", "the training code trains one trial at a time"
    if gpus_per_trial:
        return "local", f"each trial has {gpus_per_trial:g} GPUs of its own"
    if max_memory_fraction is not None:
        return "local", "max_memory_fraction is for trials with processes of their own"
    rng = np.random.default_rng(0)
    try:
        keys = Counter(train.pack_key(space.sample(rng)) for _ in range(DRAWS))
    except Exception:  # noqa: BLE001 - what is wrong with the space or the data is told elsewhere
        return "local", "it is not known which configurations can be trained together"
    alike = sum((count / DRAWS) ** 2 for count in keys.values())  # the chance that two trials are
    company = 1 + alike * (workers / process_count(workers, gpus_per_trial) - 1)
    size = f"about {company:.1f} of {workers} trials would train together"
    if company < PAYS:
        return (
            "local",
            f"only {size} in each process" if company > 1 else "each process would train one trial",
        )
    return "packed", f"{size} in each process"
