"""A study that leaves the searcher and the scheduler to `auto`."""

from pathlib import Path

import mlflow
import pytest
import trainings
import yaml

from mlflow_hpo import Study


class Listener:
    def __init__(self):
        self.messages = []

    def started(self, summary):
        """Not looked at."""

    def happened(self, message):
        self.messages.append(message)

    def ticked(self):
        """Not looked at."""

    def ended(self):
        """Not looked at."""


def run(**keys):
    listener = Listener()
    study = Study(
        trainings.quick,
        trainings.SPACE,
        listener=listener,
        metric="loss",
        mode="min",
        trials=8,
        seed=1,
        **keys,
    )
    study.run()
    return study, listener.messages


def test_what_is_chosen_and_why_is_told_and_recorded(store, tmp_path):
    study, messages = run(max_resource=9)
    params = store.get_run(study.run_id).data.params
    assert (params["hpo.searcher"], params["hpo.scheduler"]) == ("freeze_thaw", "freeze_thaw")
    assert params["hpo.auto"].startswith("freeze_thaw + freeze_thaw: ")
    assert f"auto is {params['hpo.auto']}" in messages
    folder = Path(mlflow.artifacts.download_artifacts(run_id=study.run_id, dst_path=str(tmp_path / "got")))
    recorded = yaml.safe_load((folder / "search.yaml").read_text())
    assert (recorded["searcher"], recorded["scheduler"]) == ("freeze_thaw", "freeze_thaw")
    assert study.summary().searcher == "freeze_thaw"
    assert study.best.value < 1


@pytest.mark.parametrize(
    ("given", "told", "recorded"),
    [
        ({"scheduler": "full"}, "searcher auto is tpe: ", "searcher tpe: "),
        ({"searcher": "random"}, "scheduler auto is asha: ", "scheduler asha: "),
    ],
)
def test_only_what_was_left_open_is_told(store, given, told, recorded):
    study, messages = run(max_resource=3, **given)
    assert store.get_run(study.run_id).data.params["hpo.auto"].startswith(recorded)
    assert next(message for message in messages if "auto is" in message).startswith(told)


def test_nothing_is_said_where_nothing_was_left_open(store):
    study, messages = run(max_resource=9, searcher="random", scheduler="asha")
    assert "hpo.auto" not in store.get_run(study.run_id).data.params
    assert not any(message.startswith("auto is") for message in messages)
