import pytest
from crashes import told

from mlflow_hpo import SearchSpace, Study
from mlflow_hpo.launchers.choice import choose_launcher
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
def search(store, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})  # one thread: sums of several round otherwise

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


def test_auto_packs_where_trials_have_company(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    training = BundledTraining("wine")
    narrow, wide = SearchSpace(SPACE), SearchSpace({"width": {"type": "int", "low": 2, "high": 2000}})
    place, why = choose_launcher(training, narrow, 16, 0)
    assert place == "packed"
    assert why.endswith("of 16 trials would train together in each process")
    assert choose_launcher(training, narrow, 2, 0) == ("local", "each process would train one trial")
    assert choose_launcher(training, wide, 16, 0)[1].startswith("only about 1.0 of 16 trials")
    assert choose_launcher(training, narrow, 16, 0.5) == ("local", "each trial has 0.5 GPUs of its own")
    assert choose_launcher(training, narrow, 16, 0, 0.8)[0] == "local"
    plain = "the training code trains one trial at a time"
    assert choose_launcher(lambda trial: None, narrow, 16, None) == ("local", plain)


def test_auto_says_what_it_is(store, caplog):
    keys = {"metric": "val_loss", "mode": "min", "max_resource": 1, "trials": 1, "launcher": "auto"}
    study = Study(BundledTraining("wine"), SPACE, **keys)
    assert study.config.launcher == "local"
    with caplog.at_level("INFO", "mlflow_hpo.study"):
        study.run()
    assert "launcher auto is local: each process would train one trial" in caplog.messages
