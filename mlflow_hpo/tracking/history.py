"""What a study leaves for later ones: every trial's configuration and learning curve, in one artifact."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HISTORY = "history.json"  # artifact of the parent run
WRITTEN = "hpo.history"  # tag of the parent run: how many trials the artifact holds, once it is there
NOTES = "recovery.json"  # the same of a study that runs, made now and then, so that it is resumed quickly
SCHEMA = 1


def written_history(trials: Iterable[Mapping[str, Any]]) -> str:
    """Return the content of the artifact.

    Args:
        trials: of each trial ``trial``, ``run_id``, ``params`` (name -> the text that its run has),
            ``curve``, (epoch, value) of the metric that is optimised where the trial was feasible,
            ``reports``, how many epochs it reported, and ``failed``, whether it came to nothing. Values that
            are not finite, which JSON does not know, are left out.
    """
    # one by one: as plain lists the curves of a large study take ten times the memory of their text
    texts = ",".join(_written({**trial, "curve": _finite(trial["curve"])}) for trial in trials)
    return f'{{"schema":{SCHEMA},"trials":[{texts}]}}'


def _written(plain: Mapping[str, Any]) -> str:
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def _finite(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(epoch, value) for epoch, value in curve if math.isfinite(value)]
