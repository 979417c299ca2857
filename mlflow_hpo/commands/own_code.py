"""Whether a search.yaml is for the bundled training, or for code of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_BACKEND = ("resume", "take_over")  # what `mlflow run --backend hpo` takes beside the keys of search.yaml
_OF_BUNDLED = ("data", "target")


def own_keys(keys: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the keys of a study of the user's own code, None where they are for the bundled training.

    A file is the bundled training's where it names data, or leaves the metric to it. One that was written for
    `mlflow run --backend hpo` is not, whatever it names: there `data` and `target` have no effect.

    Args:
        keys: of a search.yaml, or the same as JSON; they are not checked.

    >>> own_keys({"metric": "loss", "space": {}})
    {'metric': 'loss', 'space': {}}
    >>> own_keys({"metric": "loss", "space": {}, "data": "digits"})
    >>> own_keys({"metric": "loss", "project": {}, "resume": "0123"})
    {'launcher': 'project', 'metric': 'loss', 'project': {}}
    """
    if keys.get("launcher") == "project" or any(key in keys for key in ("project", *_OF_BACKEND)):
        return {"launcher": "project", **{name: keys[name] for name in keys if name not in _OF_BACKEND}}
    if keys.get("metric") is None or any(keys.get(name) is not None for name in _OF_BUNDLED):
        return None
    return dict(keys)
