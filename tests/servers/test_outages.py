"""A study whose servers are killed, and answer with errors, while it runs: nothing is lost, nothing is twice.

With `--full-size` each outage lasts a minute.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trainings
from crashes import told
from flaky import flaky
from mlflow.tracking import MlflowClient
from processes import clean_environment, wait_for
from restartable import mlflow_server
from stores import SECRETS, Postgres
from swift import Swift

pytestmark = pytest.mark.servers

HERE = Path(__file__).parent
DRIVER = """
import sys; sys.path.insert(0, {tests!r})
import trainings
from mlflow_hpo import tune
tune(trainings.timed, trainings.SPACE, metric="loss", mode="min", searcher="random", scheduler="asha", seed=5,
     experiment="outages", max_resource=9, workers=3, trials={trials}, keep_checkpoints="all")
"""
CHECKPOINT = re.compile(
    r".*/(?P<run>[0-9a-f]{32})/artifacts/checkpoints/epoch-(\d+)\.(?P<sha>[0-9a-f]{64})\.ckpt"
)


def trials_of(client: MlflowClient) -> list:
    experiment = client.get_experiment_by_name("outages").experiment_id
    return list(client.search_runs([experiment], "tags.`hpo.kind` = 'trial'", max_results=5000))


@pytest.mark.timeout(1500)
def test_outages_lose_nothing(postgres: Postgres, swift: Swift, tmp_path: Path, request) -> None:
    full = request.config.getoption("full_size")
    outage, epoch_seconds, trials = (60.0, 1.0, 300) if full else (6.0, 0.3, 60)
    bucket = swift.s3.create_bucket()
    folder = tmp_path / "server"
    folder.mkdir()
    backend = postgres.create_database()
    with flaky(swift.s3.endpoint, 1) as s3_proxy:
        server, server_uri = mlflow_server(backend, swift.s3.env, folder, workers=2)
        server.start()
        with flaky(server_uri, 2) as proxy:
            try:
                client = MlflowClient(server_uri)
                client.create_experiment("outages", f"s3://{bucket}/runs")
                env = clean_environment(
                    **{**swift.s3.env, "MLFLOW_S3_ENDPOINT_URL": s3_proxy.uri},
                    MLFLOW_TRACKING_URI=proxy.uri,
                    MLFLOW_HPO_SPOOL=str(tmp_path / "spool"),
                    EPOCH_SECONDS=str(epoch_seconds),
                )
                log = tmp_path / "driver.log"
                code = DRIVER.format(tests=str(HERE.parent), trials=trials)
                with log.open("wb") as output:
                    driver = subprocess.Popen(
                        [sys.executable, "-c", code],
                        cwd=tmp_path,
                        env=env,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                try:
                    wait_for(lambda: len(trials_of(client)) >= 3, 120, "the first trials")
                    server.kill()
                    time.sleep(outage)
                    spooled = b"".join(file.read_bytes() for file in (tmp_path / "spool").glob("*/*"))
                    server.start()
                    time.sleep(outage / 3)
                    disturb(swift, outage)
                    time.sleep(outage / 3)
                    proxy.share = s3_proxy.share = 1 / 3
                    time.sleep(outage)
                    wait_for(lambda: proxy.refused > 5 or driver.poll() is not None, 120, "refusals")
                    proxy.share = s3_proxy.share = 0.0
                    assert driver.poll() is None, "the study was over before its servers were disturbed"
                    code = driver.wait(900)
                finally:
                    driver.kill()
                    driver.wait()
                text = log.read_text(errors="replace")
                print(text[-3000:])
                assert code == 0, text[-5000:]
                assert proxy.refused > 5
                found, runs = told(client, study_of(client)), trials_of(client)
            finally:
                server.kill()
    assert sorted(found) == list(range(trials))
    objects = swift.s3.objects(bucket)
    checkpoints: dict[str, set[int]] = {}
    for key, content in objects.items():
        if match := CHECKPOINT.fullmatch(key):
            assert hashlib.sha256(content).hexdigest() == match["sha"]
            checkpoints.setdefault(match["run"], set()).add(int(match[2]))
            assert json.loads(content) == list(range(1, int(match[2]) + 1)), (
                "no epoch is lost or trained twice"
            )
    for run in runs:
        params, status, tags, points = found[int(run.data.tags["hpo.trial"])]
        assert status in ("FINISHED", "KILLED"), tags
        config = {name: text if name == "kind" else float(text) for name, text in params.items()}
        epochs = int(tags["hpo.epochs"])
        assert points["loss"] == [(e, trainings.curve(config, e)) for e in range(1, epochs + 1)]
        assert epochs in checkpoints[run.info.run_id]
    assert not list((tmp_path / "spool").glob("*/*")), "everything that was kept on disk is written"
    assert b"loss" in spooled
    written = [
        spooled,
        text.encode(),
        *objects.values(),
        json.dumps([run.to_dictionary() for run in runs]).encode(),
    ]
    for secret in SECRETS:
        assert not any(secret.encode() in content for content in written)


def study_of(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name("outages").experiment_id
    [study] = client.search_runs([experiment], "tags.`hpo.kind` = 'study'")
    assert study.info.status == "FINISHED"
    return study.info.run_id


def disturb(server: Swift, seconds: float) -> None:
    """Kill a server, and start it again later."""
    server.kill()
    time.sleep(seconds)
    server.start()
