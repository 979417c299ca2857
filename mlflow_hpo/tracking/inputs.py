"""Inputs: the data of a study as MLflow knows them, so that its own columns and filters show them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from mlflow_hpo.tracking.connect import without_passwords

_DIGEST = 36  # characters that MLflow has room for
_NAME = 500


def data_input(facts: Mapping[str, str]) -> DatasetInput | None:
    """Return the data that a training described, as an input of a run; None if it told no digest.

    Args:
        facts: such as ``data`` (a name, path or URI), ``data.sha256``, ``data.rows``, ``target``.
    """
    digest = facts.get("data.sha256")
    if not digest:
        return None
    name = without_passwords(facts["data"])
    told = {key: value for key, value in facts.items() if key != "data"}
    source: dict[str, object]
    if name.startswith("s3://"):
        source_type, source = "s3", {"uri": name}
    elif "." in name or "/" in name:
        source_type, source = "local", {"uri": name}
    else:  # a data set that a library brings
        source_type, source = "code", {"tags": {}}
    dataset = Dataset(
        name[-_NAME:], digest[:_DIGEST], source_type, json.dumps(source), profile=json.dumps(told)
    )
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])
