"""What a study ran in, and on which data: recorded so that it can be made again."""

import json
import subprocess

import mlflow

from mlflow_hpo.tracking.environment import changes, environment, machine
from mlflow_hpo.tracking.inputs import data_input


def git(folder, *words):
    who = ["-c", "user.name=me", "-c", "user.email=me@example.com"]
    subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True)


def repository(folder):
    git(folder, "init")
    (folder / "train.py").write_text("rate = 0.1\n")
    git(folder, "add", "train.py")
    git(folder, "commit", "-m", "first")
    return folder / "train.py"


def test_changes_since_the_commit_are_recorded(tmp_path):
    code = repository(tmp_path)
    assert changes(code) == ""
    code.write_text("rate = 0.2\nstore = 'postgresql://me:secret@db/mlflow'\n")
    found = environment(code)["environment/changes.diff"]
    assert "-rate = 0.1\n+rate = 0.2\n" in found
    assert "secret" not in found
    assert changes(tmp_path) == found


def test_a_huge_difference_is_cut(tmp_path):
    code = repository(tmp_path)
    code.write_text("x" * 1_500_000)
    found = changes(code)
    assert len(found) < 1_001_000
    assert found.endswith("more characters\n")


def test_no_repository_no_changes(tmp_path):
    assert changes(tmp_path / "missing" / "train.py") == ""
    assert changes(tmp_path) == ""
    assert sorted(environment(None)) == ["environment/machine.json", "environment/packages.txt"]
    git(tmp_path, "init")
    assert changes(tmp_path) == "", "nothing is committed"


def test_a_repository_cannot_run_its_own_commands(tmp_path):
    code = repository(tmp_path)
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    for setting in ("core.fsmonitor", "diff.external"):
        git(tmp_path, "config", setting, str(trap))
    code.write_text("rate = 0.3\n")
    assert "+rate = 0.3" in changes(code)
    assert not (tmp_path / "sprung").exists()


def test_the_machine_is_described():
    facts = json.loads(environment(None)["environment/machine.json"])
    assert facts == machine()
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 1e8


def test_data_with_a_digest_are_an_input(store):
    facts = {"data": "s3://me:secret@bucket/houses.csv", "data.sha256": "ab" * 32, "target": "price"}
    run = store.create_run("0")
    store.log_inputs(run.info.run_id, [data_input(facts)])
    [found] = store.get_run(run.info.run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("s3://bucket/houses.csv", ("ab" * 32)[:36])
    assert found.tags[0].value == "training"
    assert "secret" not in repr(found.to_proto())
    assert mlflow.data.get_source(found) is not None


def test_data_of_all_kinds(store):
    assert data_input({"data": "module.function"}) is None
    kinds = {"digits": "code", "/data/houses.csv": "local", "s3://bucket/x.npz": "s3"}
    for name, kind in kinds.items():
        found = data_input({"data": name, "data.sha256": "ab" * 32})
        assert found.dataset.source_type == kind
        assert mlflow.data.get_source(found) is not None
