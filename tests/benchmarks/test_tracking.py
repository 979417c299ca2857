import json
import subprocess
import sys

import pytest
import tracking
from slow_disk import slow_disk


@pytest.fixture
def measure(store, tmp_path):
    def measure(*words, **extra):
        return tracking._measured(*words, f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path), extra)

    return measure


@pytest.mark.parametrize("tool", ["floor", "ours"])
def test_writes_trials_and_says_how_long_it_took(store, measure, tool):
    found = measure("write", tool, [2, 4], None)
    assert sorted(found) == [2, 4]
    assert min(found.values()) > 0
    experiment = store.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
    trials = [run for run in store.search_runs([experiment]) if "mlflow.parentRunId" in run.data.tags]
    assert len(trials) == 4
    assert {run.info.status for run in trials} == {"FINISHED"}
    assert {len(run.data.params) for run in trials} == {5}
    points = store.get_metric_history(trials[0].info.run_id, "loss")
    assert [point.step for point in points] == list(range(1, tracking.STEPS + 1))


def test_says_by_how_much_a_study_slows_its_trials(measure):
    found = measure("slowed", "2", [], None)
    assert 0 < found[2] < 10


def test_a_tool_that_fails_is_told(measure):
    with pytest.raises(Exception, match="nonsense failed"):
        measure("write", "nonsense", [1], None)


def test_a_slow_disk_takes_its_time(tmp_path):
    code = "import os, time; b = time.monotonic(); os.fsync(1); os.fdatasync(1); print(time.monotonic() - b)"
    out = tmp_path / "out"
    with out.open("w") as file:
        subprocess.run([sys.executable, "-c", code], env=slow_disk(tmp_path, 50.0), stdout=file, check=True)
    assert json.loads(out.read_text()) > 0.1
