import math
from contextlib import suppress
from pathlib import Path

import pytest
import throughput
from processes import wait_for
from throughput import FAILED, Measured
from workloads import DIGITS_EPOCHS, digits, noop

CONFIG = {"learning_rate": 1e-2, "weight_decay": 1e-4, "dropout": 0.1}


def is_alive(process):
    """Whether a process is there and no zombie."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    return False


def test_the_first_half_of_the_trials_does_not_count():
    found = throughput.rate(10.0, [18.0, 13.0, 15.0, 16.0, 17.0], 19.0, workers=2)
    assert found == Measured(start=3.0, trial=4 / 3)
    assert found.per_minute == pytest.approx(45.0)
    assert throughput.rate(10.0, [18.0, 13.0, 15.0, 16.0, 17.0], 19.0, workers=4).trial == 2.0


@pytest.mark.parametrize("workload", [noop(3), digits()])
def test_a_training_reports_each_epoch(workload):
    reports = []
    workload.run(CONFIG, lambda epoch, metrics: reports.append((epoch, metrics[workload.metric])))
    assert [epoch for epoch, _ in reports] == list(range(1, workload.reports + 1))
    assert all(math.isfinite(value) for _, value in reports)
    assert digits().reports == DIGITS_EPOCHS


@pytest.mark.parametrize("tool", ["ours", "none"])
def test_measures_a_search_in_a_process_of_its_own(tool):
    found = throughput._measured(tool, "noop", 1, 4)
    assert 0 < found.trial < 60
    assert 0 < found.start < 100


def test_a_tool_that_fails_is_told(monkeypatch, capsys):
    assert throughput._measured("nonsense", "noop", 1, 4) is FAILED
    assert "KeyError: 'nonsense'" in capsys.readouterr().err
    assert FAILED.per_minute == 0.0


def test_a_tool_that_hangs_is_ended_with_its_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(throughput, "GIVE_UP", 0.5)
    words = ["sh", "-c", f"sleep 300 & echo $! > {tmp_path}/child; wait"]
    assert throughput._run(words, {}, tmp_path) == "took longer than 0.5 seconds"
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not is_alive(child), 30, "the end of the child")


def test_compares_with_the_best_peer(monkeypatch):
    seconds = {"none": 0.01, "ours": 0.02, "optuna-threads": 0.06, "ray": 0.5}

    def measured(tool, workload, workers, trials, *, server):
        return FAILED if (tool, workers) == ("ray", 2) else Measured(1.0, seconds[tool] / workers)

    monkeypatch.setattr(throughput, "_measured", measured)
    lines = throughput._compared("Title", "noop", list(seconds), [1, 2], dict.fromkeys(seconds, 9)).split(
        "\n"
    )
    cells = [[cell.strip() for cell in line.split("|")[1:-2]] for line in lines[4:]]
    assert [row[1:] for row in cells] == [
        ["6,000", "-", "1.0"],
        ["3,000", "6,000", "1.0"],
        ["1,000", "2,000", "1.0"],
        ["120", "failed", "1.0"],
        ["3.0", "3.0", ""],
    ]


def test_tells_reports_from_the_rest_of_a_trial(monkeypatch):
    monkeypatch.setattr(
        throughput,
        "_measured",
        lambda tool, workload, workers, trials: Measured(
            1.0, 0.005 + 0.001 * throughput.WORKLOADS[workload]().reports
        ),
    )
    assert throughput._overhead(["ours"], {"ours": 100}).endswith("| ours | 5.0 | 1.00 |")
