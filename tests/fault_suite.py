"""A study whose workers are killed and whose trials fail in every way: how it runs, and what must be true."""

import contextlib
import random
import threading
import time
from collections import Counter

import faulty
import psutil
from crashes import told

from mlflow_hpo import Study
from mlflow_hpo.launchers import guard

SPACE = {
    "x": {"type": "float", "low": -1.0, "high": 1.0},
    "fate": {"type": "int", "low": 0, "high": 19},
}
DIED = "the worker process died: "
ALLOWED = {
    1: ("ValueError: this configuration is bad", DIED),
    7: ("heartbeat_timeout: no sign of life for 3 seconds", DIED),
}
ALLOWED[11] = ALLOWED[1]


class Killer(threading.Thread):
    """Calls `kill` with a random generator every `pause` seconds, until it is over."""

    def __init__(self, kill, pause, seed):
        super().__init__(daemon=True)
        self.kill = kill
        self.pause = pause
        self.random = random.Random(seed)
        self.over = threading.Event()
        self.killed = 0

    def run(self):
        while not self.over.wait(self.pause):
            with contextlib.suppress(IndexError, RuntimeError, psutil.Error):  # they change, or are gone
                self.kill(self.random)
                self.killed += 1

    def stop(self):
        self.over.set()
        self.join()


def victims(mark):
    """The processes that a fault may end: nothing is left to clear up after a guard that is killed, too."""
    return [each for each in relatives(mark) if guard.__file__ not in each.cmdline()]


def relatives(mark):
    """The processes that have the environment variable FAULTS as told, but this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != psutil.Process().pid and process.environ().get("FAULTS") == mark:
                found.append(process)
    return found


def search(trials, train=faulty.fails_in_every_way, **keys):
    """A study of so many trials that go wrong in every way."""
    rng = random.Random(0)
    return Study(
        train,
        SPACE,
        metric="loss",
        mode="min",
        searcher="random",
        scheduler={"name": "asha", "eta": 3},
        max_resource=9,
        trials=trials,
        workers=keys.pop("workers", 4),
        points=[{"x": rng.uniform(-1, 1), "fate": trial % 20} for trial in range(trials)],
        heartbeat_timeout=3,
        max_retries=2,
        trials_per_worker=20,
        **keys,
    )


def run(study, killer):
    """Run it to its end, and print what became of it."""
    begin = time.monotonic()
    study.run()
    trials = study.summary().trials
    states = Counter(trial.status for trial in trials)
    print(f"{len(trials)} trials, killed {killer.killed} times, {time.monotonic() - begin:.0f} s: {states}")


def check(store, study, trials):
    """Each trial has exactly one run, in a true final state, and no step twice."""
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
            assert tags["hpo.stop_reason"].startswith((DIED, "heartbeat_timeout"))
        else:
            assert status in ("FINISHED", "KILLED")
            assert (known.epochs == 9) == (status == "FINISHED")
    assert study.best.config["fate"] != 9
