"""Reads a study back in a process of its own, with MLflow alone: ``python readback.py RUN_ID``.

Prints JSON. It must not import mlflow_hpo: this is what anybody with the store's address can do.
"""

import json
import sys
from typing import Any

import mlflow
from mlflow.entities import Run


def _plain(client: mlflow.MlflowClient, run: Run) -> dict[str, Any]:
    return {
        "id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "ended": run.info.end_time is not None,
        "tags": run.data.tags,
        "params": run.data.params,
        "metrics": {
            name: sorted(
                [metric.step, metric.value] for metric in client.get_metric_history(run.info.run_id, name)
            )
            for name in run.data.metrics
            if not name.startswith("system/")
        },
        "system_metrics": sorted(name for name in run.data.metrics if name.startswith("system/")),
    }


def runs(run_id: str) -> dict[str, Any]:
    """Return the parent, its artifact paths, and all other runs of its experiment."""
    client = mlflow.MlflowClient()
    parent = client.get_run(run_id)
    others = client.search_runs([parent.info.experiment_id], max_results=1000)
    return {
        "parent": _plain(client, parent),
        "children": [_plain(client, run) for run in others if run.info.run_id != run_id],
        "artifact_uri": parent.info.artifact_uri,
        "artifacts": sorted(info.path for info in client.list_artifacts(run_id)),
        "table_columns": sorted(
            client.load_table(parent.info.experiment_id, "trials.json", [run_id]).columns
        ),
    }


def model(run_id: str) -> dict[str, Any]:
    """Load the study's model from the store and let it predict."""
    loaded = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    example = mlflow.models.Model.load(f"runs:/{run_id}/model").load_input_example()
    prediction = loaded.predict(example)
    return {
        "inputs": loaded.metadata.signature.inputs.to_dict(),
        "rows": len(example),
        "columns": list(prediction.columns),
        "predictions": [str(value) for value in prediction.iloc[:, 0]],
    }


if __name__ == "__main__":
    print(json.dumps({**runs(sys.argv[1]), "model": model(sys.argv[1])}))
