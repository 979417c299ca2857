"""Features of a task: a few numbers that tell how alike two data sets are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_COUNTS = ("rows", "columns", "classes")  # facts that the bundled training tells of its data
_KINDS = {"classification": 1.0, "regression": 0.0}


def task_features(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the features of the data that some facts describe: logarithms of its sizes, and its kind.

    Args:
        facts: what a training that describes itself says of its data (artifact `data.json`); what is not
            there, or is no number, is no feature.

    >>> task_features({"data.rows": "1797", "data.columns": "64", "data.task": "classification"})
    {'rows': 3.2548, 'columns': 1.8129, 'classification': 1.0}
    """
    features: dict[str, float] = {}
    for name in _COUNTS:
        try:
            count = float(facts[f"data.{name}"])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(count) and count >= 0:
            features[name] = round(math.log10(1 + count), 4)
    kind = facts.get("data.task")
    if isinstance(kind, str) and kind in _KINDS:
        features["classification"] = _KINDS[kind]
    return features
