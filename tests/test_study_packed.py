import pytest
from crashes import told

from mlflow_hpo import Study
from mlflow_hpo.training.bundled import BundledTraining

SPACE = {
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "dropout": {"type": "float", "low": 0.05, "high": 0.5},
    "optimizer": {"type": "categorical", "choices": ["adam", "adamw", "sgd"]},
    "width": {"type": "categorical", "choices": [8, 16]},
    "schedule": {"type": "categorical", "choices": ["constant", "cosine", "onecycle"]},
}
CLOCKED = ("epoch_seconds", "samples_per_second")


@pytest.fixture
def search(store):
    def run(**keys):
        study = Study(
            BundledTraining("wine", max_epochs=9),
            SPACE,
            metric="val_loss",
            mode="min",
            searcher="random",
            scheduler={"name": "successive_halving", "eta": 3},
            max_resource=9,
            trials=9,
            seed=3,
            **keys,
        )
        study.run()
        runs = told(store, study.run_id)
        return {
            trial: (
                params,
                status,
                tags["hpo.epochs"],
                {
                    name: values
                    for name, values in points.items()
                    if name not in CLOCKED and not name.startswith("system/")
                },
            )
            for trial, (params, status, tags, points) in runs.items()
        }

    return run


def test_every_run_is_as_if_its_trial_was_trained_alone(search):
    alone = search(launcher="local", workers=1)
    assert {status for _, status, _, _ in alone.values()} == {"FINISHED", "KILLED"}
    assert search(launcher={"name": "packed", "processes": 1}, workers=9) == alone
