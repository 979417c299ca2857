"""One small study on each kind of store that teams run, read back value by value and object by object."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
import yaml
from processes import clean_environment, run_cli
from psycopg import sql
from stores import S3, SECRETS, Postgres, StartServer

from mlflow_hpo import SearchSpace

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]
TRIALS, EPOCHS, RUNGS = 9, 9, (1, 3, 9)
CHECKPOINT = re.compile(r"(?P<root>.*)/checkpoints/epoch-(?P<epoch>\d+)\.(?P<sha256>[0-9a-f]{64})\.ckpt")


@dataclass(frozen=True)
class Place:
    """Where a study is written to: the database behind it, and a client's environment."""

    backend: str
    env: dict[str, str]


@dataclass(frozen=True)
class Finished:
    """A study that ran to its end, and the ways to look at what it left."""

    backend: str
    env: dict[str, str]
    folder: Path
    output: str  # of `mlflow-hpo run`, both streams
    run_id: str
    s3: S3
    bucket: str

    @cached_property
    def runs(self) -> Any:
        """What readback.py prints: the runs as MLflow tells them, and what the model predicts."""
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("readback.py")), self.run_id],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    @cached_property
    def objects(self) -> dict[str, bytes]:
        """Everything in the bucket: key -> content."""
        return self.s3.objects(self.bucket)

    def artifact(self, path: str) -> str:
        """Return a text artifact of the parent run, read from the bucket."""
        (content,) = [
            content
            for key, content in self.objects.items()
            if key.endswith(f"/{self.run_id}/artifacts/{path}")
        ]
        return content.decode()

    @cached_property
    def checkpoints(self) -> dict[str, set[int]]:
        """Run id -> the epochs that have a checkpoint in the bucket."""
        found: dict[str, set[int]] = {}
        for key in self.objects:
            if match := CHECKPOINT.fullmatch(key):
                run_id = match["root"].removesuffix("/artifacts").rsplit("/", 1)[-1]
                found.setdefault(run_id, set()).add(int(match["epoch"]))
        return found

    @cached_property
    def table(self) -> list[dict[str, str]]:
        """The rows of trials.csv."""
        return list(csv.DictReader(io.StringIO(self.artifact("trials.csv"))))


class StudyOnAStore:
    """What holds of a study on any kind of store; its tests stay together where tests run in parallel."""

    artifact_root: ClassVar[str] = "s3://"
    keys: ClassVar[dict[str, Any]] = {}  # of search.yaml

    @pytest.fixture(scope="class")
    @classmethod
    def bucket(cls, s3: S3) -> str:
        """The bucket for artifacts."""
        return s3.create_bucket()

    @pytest.fixture(scope="class")
    @classmethod
    def study(cls, place: Place, s3: S3, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
        """A study that `mlflow-hpo run` has finished."""
        folder = tmp_path_factory.mktemp("study")
        bundled = yaml.safe_load((ROOT / "mlflow_hpo/training/search.yaml").read_text())
        (folder / "search.yaml").write_text(yaml.safe_dump({**bundled, "name": "nightly", **cls.keys}))
        flags = ("--trials", str(TRIALS), "--max-epochs", str(EPOCHS), "--workers", "2")
        done = run_cli("run", "--config", "search.yaml", *flags, env=place.env, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        match = re.match(r"study nightly \((?P<id>[0-9a-f]{32})\)", done.stdout)
        assert match, done.stdout
        return Finished(
            backend=place.backend,
            env=place.env,
            folder=folder,
            output=done.stdout + done.stderr,
            run_id=match["id"],
            s3=s3,
            bucket=bucket,
        )

    def test_run_tree_and_statuses_are_true(self, study: Finished) -> None:
        parent, children = study.runs["parent"], study.runs["children"]
        assert parent["status"] == "FINISHED"
        assert parent["ended"]
        assert parent["tags"]["hpo.kind"] == "study"
        assert parent["tags"]["hpo.schema"] == "1"
        assert sorted(run["name"] for run in children) == [f"trial-{number:04d}" for number in range(TRIALS)]
        for run in children:
            assert run["tags"]["mlflow.parentRunId"] == study.run_id
            assert run["tags"]["hpo.kind"] == "trial"
            assert run["ended"]
            epochs = int(run["tags"]["hpo.epochs"])
            assert epochs in RUNGS
            assert run["status"] == ("FINISHED" if epochs == EPOCHS else "KILLED")
            if run["status"] == "KILLED":
                assert run["tags"]["hpo.stop_reason"]
        assert [run["status"] for run in children].count("FINISHED") == 1

    def test_every_metric_has_every_epoch_once(self, study: Finished) -> None:
        for run in study.runs["children"]:
            epochs = list(range(1, int(run["tags"]["hpo.epochs"]) + 1))
            for name in ("val_accuracy", "val_loss", "train_loss"):
                assert [step for step, _ in run["metrics"][name]] == epochs, (run["name"], name)
            # at least one of its jobs was at work for a second, by the worker's own clock
            if float(run["tags"]["hpo.seconds"]) >= len(json.loads(run["tags"]["hpo.jobs"])):
                assert "system/cpu_utilization_percentage" in run["system_metrics"]

    def test_parent_tells_the_incumbent_and_the_spending(self, study: Finished) -> None:
        parent, children = study.runs["parent"], study.runs["children"]
        values = [value for run in children for _, value in run["metrics"]["val_accuracy"]]
        incumbent = [value for _, value in parent["metrics"]["best_val_accuracy"]]
        assert all(before <= after for before, after in pairwise(incumbent))
        assert incumbent[-1] == max(values)
        assert parent["metrics"]["epochs_spent"][-1][1] == len(values)
        assert parent["metrics"]["trials_done"][-1][1] == TRIALS

    def test_params_read_back_to_the_values_of_the_table(self, study: Finished) -> None:
        space = SearchSpace(json.loads(study.artifact("space.json")))
        rows = {row["run_id"]: row for row in study.table}
        assert len(rows) == TRIALS
        for run in study.runs["children"]:
            row = rows[run["id"]]
            config = space.parse(run["params"])
            texts = {name: row[f"params.{name}"] for name in space.names if row[f"params.{name}"] != ""}
            assert space.parse(texts) == config
            assert ("momentum" in config) == (config["optimizer"] == "sgd")
            assert row["status"] == run["status"]
            assert int(row["epochs"]) == int(run["tags"]["hpo.epochs"])
            assert float(row["val_accuracy"]) == run["metrics"]["val_accuracy"][-1][1]
            assert float(row["best_val_accuracy"]) == max(
                value for _, value in run["metrics"]["val_accuracy"]
            )

    def test_parent_artifacts_are_in_the_bucket(self, study: Finished) -> None:
        assert {
            "search.yaml",
            "space.json",
            "environment",
            "trials.csv",
            "trials.json",
            "best_config.yaml",
            "history.json",
        } <= set(study.runs["artifacts"])
        assert study.runs["artifact_uri"].startswith(self.artifact_root)
        assert all(key.startswith("team/mlflow/") for key in study.objects)
        assert yaml.safe_load(study.artifact("search.yaml"))["trials"] == TRIALS
        assert re.search(r"(?m)^mlflow==", study.artifact("environment/packages.txt"))
        assert study.runs["table_columns"] == sorted(study.table[0])
        best = yaml.safe_load(study.artifact("best_config.yaml"))
        (winner,) = [run for run in study.runs["children"] if run["id"] == best["run_id"]]
        assert [best["epoch"], best["val_accuracy"]] in winner["metrics"]["val_accuracy"]
        assert best["val_accuracy"] == study.runs["parent"]["metrics"]["best_val_accuracy"][-1][1]
        assert best["params"] == SearchSpace(json.loads(study.artifact("space.json"))).parse(winner["params"])

    def test_checkpoints_are_intact_and_only_those_that_are_wanted(self, study: Finished) -> None:
        for key, content in study.objects.items():
            if "/checkpoints/" in key:
                match = CHECKPOINT.fullmatch(key)
                assert match, key
                assert hashlib.sha256(content).hexdigest() == match["sha256"]
        best = yaml.safe_load(study.artifact("best_config.yaml"))
        if self.keys.get("keep_checkpoints") == "all":
            for run in study.runs["children"]:
                reached = {rung for rung in RUNGS if rung <= int(run["tags"]["hpo.epochs"])}
                assert reached <= study.checkpoints[run["id"]], run["name"]
        else:
            (winner,) = [run for run in study.runs["children"] if run["id"] == best["run_id"]]
            wanted = {best["epoch"], int(winner["tags"]["hpo.epochs"])}
            assert study.checkpoints == {best["run_id"]: wanted}

    def test_no_secret_is_written_anywhere(self, study: Finished) -> None:
        for secret in SECRETS:
            assert secret not in study.output
            assert secret not in json.dumps(study.runs)
            assert [key for key, content in study.objects.items() if secret.encode() in content] == []
            if study.backend.startswith("sqlite:///"):
                assert secret.encode() not in Path(study.backend.removeprefix("sqlite:///")).read_bytes()
                continue
            with psycopg.connect(study.backend) as connection:
                tables = connection.execute(
                    "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
                ).fetchall()
                assert len(tables) > 10
                for (table,) in tables:
                    query = sql.SQL("SELECT count(*) FROM {} AS row WHERE row::text LIKE {}").format(
                        sql.Identifier(table), sql.Literal(f"%{secret}%")
                    )
                    assert connection.execute(query).fetchone() == (0,), (secret, table)

    def test_best_model_loads_from_the_store_and_predicts(self, study: Finished) -> None:
        model = study.runs["model"]
        assert model["inputs"]
        assert model["rows"] == len(model["predictions"]) > 0
        assert set(model["predictions"]) <= set("0123456789")
        assert len(set(model["predictions"])) > 1  # it tells digits apart

    def test_show_prints_the_same_from_the_store_alone(self, study: Finished) -> None:
        shown = run_cli("show", study.run_id, env=study.env, cwd=study.folder)
        assert shown.returncode == 0, shown.stderr
        end = study.output[study.output.rindex(f"study nightly ({study.run_id}) FINISHED") :].splitlines()
        lines = shown.stdout.splitlines()
        # the state's line ends with the study's duration, which MLflow measures from run to run
        assert lines[0].rsplit(", ", 1)[0] == end[0].rsplit(", ", 1)[0]
        assert lines[1:] == end[1 : len(lines)]
        assert len(lines) > 3


@pytest.mark.full_size
class TestServerOnSqliteWithS3(StudyOnAStore):
    @pytest.fixture(scope="class")
    @classmethod
    def place(
        cls,
        s3: S3,
        bucket: str,
        start_mlflow_server: StartServer,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Place:
        backend = f"sqlite:///{tmp_path_factory.mktemp('backend')}/mlflow.db"
        flags = ("--no-serve-artifacts", "--default-artifact-root", f"s3://{bucket}/team/mlflow")
        uri = start_mlflow_server(backend, s3.env, *flags)
        return Place(backend, clean_environment(MLFLOW_TRACKING_URI=uri, **s3.env))


class TestServerOnPostgresThatProxiesS3(StudyOnAStore):
    """Only the server knows the bucket."""

    artifact_root = "mlflow-artifacts:/"

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, s3: S3, bucket: str, start_mlflow_server: StartServer, postgres: Postgres) -> Place:
        backend = postgres.create_database()
        flags = ("--serve-artifacts", "--artifacts-destination", f"s3://{bucket}/team/mlflow")
        uri = start_mlflow_server(backend, s3.env, *flags)
        return Place(backend, clean_environment(MLFLOW_TRACKING_URI=uri))


class TestPostgresAndS3WithoutServer(StudyOnAStore):
    """The experiment names the artifacts' root; all checkpoints are kept."""

    keys: ClassVar[dict[str, Any]] = {"experiment": "search", "keep_checkpoints": "all"}

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, s3: S3, bucket: str, postgres: Postgres) -> Place:
        backend = postgres.create_database()
        env = clean_environment(MLFLOW_TRACKING_URI=backend, **s3.env)
        code = "import sys, mlflow; mlflow.create_experiment('search', artifact_location=sys.argv[1])"
        root = f"s3://{bucket}/team/mlflow"
        subprocess.run([sys.executable, "-c", code, root], env=env, check=True, timeout=120)
        return Place(backend, env)
