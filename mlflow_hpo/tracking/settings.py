"""The settings of a study, as the params and tags of its parent run tell them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mlflow.entities import Run

from mlflow_hpo.tracking.summary import CHANGED


def settings(parent: Run) -> dict[str, str]:
    """Return the params of a study as they were last changed."""
    return {**parent.data.params, **_changed(parent.data.tags)}


def _changed(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the params that are other since the study was resumed."""
    changed = json.loads(tags.get(CHANGED, "{}"))
    return {
        f"hpo.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in changed.items()
    }
