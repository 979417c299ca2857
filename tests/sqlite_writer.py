"""What one of several processes writes to the same SQLite store; processes import this."""

import mlflow
from mlflow.entities import Metric

from mlflow_hpo.tracking.transport import hasten, own_retries

RUNS = 5


def write(uri, number, results):
    """Write some runs; put "", or what went wrong, into a queue."""
    try:
        hasten(uri)
        client = mlflow.MlflowClient(uri)
        with own_retries():
            for index in range(RUNS):
                run = client.create_run("0", run_name=f"{number}-{index}").info.run_id
                client.log_batch(run, [Metric("loss", 1.0, 1, step) for step in range(20)])
                client.set_terminated(run)
        results.put("")
    except Exception as error:
        results.put(f"{type(error).__name__}: {error}")
