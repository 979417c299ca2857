"""A study whose workers are killed all the time, and whose trials fail in every way, ends by itself."""

import contextlib
import random
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import faulty
import psutil
from crashes import told

from mlflow_hpo import Study

SPACE = {
    "x": {"type": "float", "low": -1.0, "high": 1.0},
    "fate": {"type": "int", "low": 0, "high": 19},
}
ALLOWED = {
    1: ("ValueError: this configuration is bad", "the worker process died: signal SIGKILL"),
    7: ("heartbeat_timeout: no sign of life for 3 seconds", "the worker process died: signal SIGKILL"),
}
ALLOWED[11] = ALLOWED[1]


class Killer(threading.Thread):
    """Sends SIGKILL to one of a launcher's workers every `pause` seconds."""

    def __init__(self, launcher, pause, seed):
        super().__init__(daemon=True)
        self.launcher = launcher
        self.pause = pause
        self.random = random.Random(seed)
        self.over = threading.Event()
        self.killed = 0

    def run(self):
        while not self.over.wait(self.pause):
            with contextlib.suppress(IndexError, RuntimeError):  # the workers change meanwhile, or are gone
                worker = self.random.choice(list(self.launcher._workers.values()))
                worker.process.kill()
                self.killed += 1


def relatives(mark):
    """The processes that have the environment variable FAULTS as told, but this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != psutil.Process().pid and process.environ().get("FAULTS") == mark:
                found.append(process)
    return found


def test_faults_lose_nothing_and_leave_nothing_behind(store, monkeypatch, request):
    trials, pause = (200, 1.0) if request.config.getoption("full_size") else (20, 2.0)
    mark = uuid.uuid4().hex
    monkeypatch.setenv("FAULTS", mark)
    rng = random.Random(0)
    study = Study(
        faulty.fails_in_every_way,
        SPACE,
        metric="loss",
        mode="min",
        searcher="random",
        scheduler={"name": "asha", "eta": 3},
        max_resource=9,
        trials=trials,
        workers=4,
        points=[{"x": rng.uniform(-1, 1), "fate": trial % 20} for trial in range(trials)],
        heartbeat_timeout=3,
        max_retries=2,
        trials_per_worker=20,
    )
    launcher, free = study._launcher, []
    close = launcher.close

    def look_and_close():
        killer.over.set()
        killer.join()
        if not free:
            free.append(sum(worker.job is None for worker in launcher._workers.values()))
        close()

    monkeypatch.setattr(launcher, "close", look_and_close)
    killer = Killer(launcher, pause, seed=1)
    killer.start()
    begin = time.monotonic()
    study.run()
    states = Counter(trial.status for trial in study.summary().trials)
    print(f"{trials} trials, {killer.killed} workers killed, {time.monotonic() - begin:.0f} s: {states}")

    assert free == [4], "a slot is leaked"
    assert relatives(mark) == []
    assert killer.killed > 0
    assert store.get_run(study.run_id).info.status == "FINISHED"
    runs = told(store, study.run_id)  # sees to it that no trial has two runs, and no step is there twice
    assert sorted(runs) == list(range(trials))
    for trial, (params, status, tags, points) in runs.items():
        known = study.summary().trials[trial]
        assert (status, int(tags["hpo.epochs"])) == (known.status, known.epochs)
        assert [step for step, _ in points.get("loss", [])] == list(range(1, known.epochs + 1))
        # what checkpoints carry on is whole, whatever was in between
        assert all(step == length for step, length in points.get("length", [])), trial
        fate = int(params["fate"])
        if fate in ALLOWED:
            assert status == "FAILED"
            assert tags["hpo.stop_reason"].startswith(ALLOWED[fate])
        elif status == "FAILED":
            assert tags["hpo.stop_reason"].startswith(("the worker process died", "heartbeat_timeout"))
        else:
            assert status in ("FINISHED", "KILLED")
            assert (known.epochs == 9) == (status == "FINISHED")
    assert Path("full").exists(), "the disk was never full"
    assert study.best.config["fate"] != 9
