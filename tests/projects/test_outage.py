"""A tracking server that goes away while scripts run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from processes import clean_environment
from restartable import mlflow_server
from searching import Search, command

OUTAGE = 6.0  # seconds; the script's own client is patient for longer


@pytest.mark.servers
def test_a_search_goes_on_when_its_server_is_back(
    foreign: Callable[[str], Path],
    store: MlflowClient,
    tmp_path: Path,
    start_process: Any,
    wait_for: Any,
    plugin: None,
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    server, uri = mlflow_server(store.tracking_uri, {}, folder, 1)
    server.start()
    keys = {
        "metric": {"name": "score", "mode": "max"},
        "space": {"x": {"type": "float", "low": 1, "high": 2}},
        "searcher": "random",
        "scheduler": "full",
        "max_resource": 8,
        "trials": 2,
        "workers": 2,
        "project": {"poll_interval": 0.2},
    }
    try:
        process = start_process(
            *command(foreign("counting"), keys, "-P", "epochs=8", "-P", "seconds=1"),
            env=clean_environment(MLFLOW_TRACKING_URI=uri),
        )

        def epochs() -> list[int]:
            runs = store.search_runs(["0"], "tags.`hpo.kind` = 'trial'")
            return [len(store.get_metric_history(run.info.run_id, "score")) for run in runs]

        wait_for(lambda: len(epochs()) == 2 and min(epochs()) > 1, 120)
        server.kill()
        time.sleep(OUTAGE)
        server.start()
        output, _ = process.communicate(timeout=180)
    finally:
        server.kill()
    done = Search(process.returncode, output, store)
    assert done.code == 0, output
    assert done.study.info.status == "FINISHED"
    print(output, *(run.data.tags for run in done.trials), sep="\n")  # shown where it fails
    assert [run.info.status for run in done.trials] == ["FINISHED", "FINISHED"]
    assert [run.data.metrics["score"] for run in done.trials] == [
        run.data.metrics["best_score"] for run in done.trials
    ]
    assert [run.data.tags["hpo.epochs"] for run in done.trials] == ["8", "8"]
