"""Several studies side by side."""

import json

import trainings
from click.testing import CliRunner
from recorded import recorded

from mlflow_hpo import tune
from mlflow_hpo.cli import main
from mlflow_hpo.reports.comparison import comparison_data, comparison_table


def test_the_best_study_comes_first():
    studies = [recorded(30, name=f"study-{seed}", seed=seed).summary for seed in range(3)]
    best = {study.name: study.ranked()[0].best for study in studies}

    heading, *rows = comparison_table(studies)

    assert [row.split()[1] for row in rows] == sorted(best, key=best.get, reverse=True)
    assert heading.split()[:4] == ["RUN", "ID", "NAME", "STATUS"]
    data = comparison_data(studies)
    assert [told["name"] for told in data] == sorted(best, key=best.get, reverse=True)
    told = next(told for told in data if told["name"] == "study-0")
    assert told["best"] == best["study-0"]
    assert told["failed"] == 3
    assert told["saved"] == 1 - studies[0].epochs / 270


def test_studies_of_several_metrics_keep_their_order():
    studies = [recorded(10, name=metric, metric=metric).summary for metric in ("loss", "accuracy")]
    _, *rows = comparison_table(studies)
    assert [row.split()[1] for row in rows] == ["loss", "accuracy"]
    assert [told["name"] for told in comparison_data(studies)] == ["loss", "accuracy"]


def test_the_command_reads_them_from_mlflow(store):
    for name in ("first", "second"):
        tune(trainings.quick, trainings.SPACE, metric="loss", mode="min", max_resource=2, trials=2, name=name)
    runs = store.search_runs(["1"], "tags.`hpo.kind` = 'study'")
    ids = [run.info.run_id for run in runs]

    told = CliRunner().invoke(main, ["compare", *ids, "--json"])
    table = CliRunner().invoke(main, ["compare", *ids, ids[0]])

    assert [study["run_id"] for study in json.loads(told.output)] == ids
    assert len(table.output.splitlines()) == 3
    assert "first" in table.output
    assert CliRunner().invoke(main, ["compare", "0" * 32]).exit_code == 2
