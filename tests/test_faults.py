"""A study whose workers are killed all the time, and whose trials fail in every way, ends by itself."""

import uuid
from pathlib import Path

import fault_suite
import pytest
from packables import Faulty

from mlflow_hpo.launchers.forks import close_servers


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({}, id="local"),
        pytest.param(
            {"train": Faulty(), "launcher": {"name": "packed", "processes": 2}, "workers": 12}, id="packed"
        ),
    ],
)
def test_faults_lose_nothing_and_leave_nothing_behind(store, monkeypatch, request, keys):
    trials, pause = (200, 1.0) if request.config.getoption("full_size") else (20, 2.0)
    mark = uuid.uuid4().hex
    monkeypatch.setenv("FAULTS", mark)
    close_servers()  # workers, too, are to be known by it
    study = fault_suite.search(trials, **keys)
    launcher, free = study._launcher, []
    close = launcher.close

    def kill_one(random):  # on a slow machine none would ever be ready, if they were killed before
        random.choice([worker for worker in launcher._workers.values() if worker.ready]).process.kill()

    killer = fault_suite.Killer(kill_one, pause, seed=1)

    def look_and_close():
        killer.stop()
        if not free:
            free.extend(launcher._free_slots())
        close()

    monkeypatch.setattr(launcher, "close", look_and_close)
    killer.start()
    fault_suite.run(study, killer)

    assert free == list(launcher.slots), "a slot is leaked"
    close_servers()
    assert fault_suite.relatives(mark) == []
    assert killer.killed > 0
    fault_suite.check(store, study, trials)
    assert Path("full").exists(), "the disk was never full"
