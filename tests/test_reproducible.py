"""The bundled training, searched: the same seed twice, and paused trials against uninterrupted ones."""

from mlflow_hpo import Study
from mlflow_hpo.training.bundled import BundledTraining

SPACE = {
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
    "momentum": {"type": "float", "low": 0.5, "high": 0.98, "when": {"optimizer": "sgd"}},
    "dropout": {"type": "float", "low": 0.1, "high": 0.5},
    "batch_size": {"type": "int", "low": 16, "high": 64, "log": True},
}
CLOCK = {"epoch_seconds", "samples_per_second"}


def curves(store, **keys):
    """Run a study on wine with one worker; return every trial's params and metrics but those of time."""
    study = Study(
        BundledTraining("wine", max_epochs=9),
        SPACE,
        metric="val_loss",
        mode="min",
        max_resource=9,
        workers=1,
        seed=11,
        **keys,
    )
    study.run()
    found = {}
    for trial in study.summary().trials:
        run = store.get_run(trial.run_id)
        names = {name for name in run.data.metrics if not name.startswith("system/")} - CLOCK
        history = {
            name: [(m.step, m.value) for m in store.get_metric_history(trial.run_id, name)] for name in names
        }
        found[trial.trial_id] = (run.data.params, run.info.status, history)
    return found


def test_the_same_seed_twice_gives_every_configuration_and_metric_again(store):
    tpe = {"name": "tpe", "n_startup": 4}  # so that its model proposes within these few trials
    first, second = (curves(store, searcher=tpe, scheduler="asha", trials=12) for _ in range(2))
    assert first == second
    assert len(first) == 12
    assert any(status == "FINISHED" for _, status, _ in first.values())


def test_a_trial_paused_at_each_rung_is_bit_for_bit_the_uninterrupted_one(store):
    alone = {"name": "successive_halving", "bracket_size": 1}  # always promoted, at epochs 1 and 3
    paused = curves(store, searcher="random", scheduler=alone, trials=1)
    whole = curves(store, searcher="random", scheduler="full", trials=1)
    assert paused == whole
    [(_, status, history)] = paused.values()
    assert status == "FINISHED"
    assert [step for step, _ in history["val_loss"]] == list(range(1, 10))
