"""Runs as scripts log them that know nothing of this package."""

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

ROUND = {"x": 0.5, "kind": "round"}


def logged(
    store,
    values=((1, 0.5),),
    params=ROUND,
    *,
    metric="loss",
    experiment="plain",
    status="FINISHED",
    data=(),
    tags=None,
):
    """Log a run as a script does, its values as (step, value) one after the other; return its id."""
    known = store.get_experiment_by_name(experiment)
    where = store.create_experiment(experiment) if known is None else known.experiment_id
    run_id = store.create_run(where, tags=tags).info.run_id
    points = [Metric(metric, value, 1000 + at, step) for at, (step, value) in enumerate(values)]
    store.log_batch(run_id, points, [Param(name, str(value)) for name, value in params.items()])
    if data:
        store.log_inputs(run_id, [dataset(*each) for each in data])
    if status != "RUNNING":
        store.set_terminated(run_id, status=status)
    return run_id


def dataset(name, digest, context=None):
    tags = [] if context is None else [InputTag("mlflow.data.context", context)]
    return DatasetInput(Dataset(name, digest, "local", "{}"), tags)
