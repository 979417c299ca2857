"""Training code for packs, epoch by epoch: quick, and going wrong in every way; workers import this."""

import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, replace

from faulty import first_time
from trainings import curve

from mlflow_hpo.packing import Trained, train_alone


@dataclass(frozen=True)
class Member:
    params: dict
    history: tuple = ()


class Named:
    """Does what the function `train` of the parameters says; trials with the same `key` are a pack.

    What it reports are the number of trials in the pack, how many epochs its checkpoints carry, and the
    process.
    """

    def __call__(self, trial):
        train_alone(self.packs(trial.device), trial)

    def pack_key(self, params):
        if params.get("wrong"):
            raise ValueError("wrong configuration")
        return params.get("key")

    def packs(self, device):
        return NamedPacks()


class NamedPacks:
    def begin(self, params, seed, checkpoint):
        if checkpoint is None:
            return Member(dict(params))
        return Member(dict(params), tuple(json.loads(checkpoint.read_text())))

    def epoch(self, members):
        results = []
        for member in members:
            history = (*member.history, len(member.history) + 1)
            metrics = {"loss": 1.0 / len(history), "length": len(history)}
            metrics |= {"pack": len(members), "pid": os.getpid()}
            trained = Trained(replace(member, history=history), metrics)
            act = globals().get(member.params.get("train", ""), lambda trained, *_: trained)
            results.append(act(trained, len(history), members))
        return results

    def save(self, member, epoch, path):
        path.write_text(json.dumps(member.history))


def raises(trained, epoch, members):
    raise ValueError(f"x is {trained.member.params['x']:.3f}\nand more")


def diverges(trained, epoch, members):
    return replace(trained, metrics={"loss": float("nan")}, failure="training diverged")


def exits(trained, epoch, members):
    raise SystemExit(3)


def exits_at_once(trained, epoch, members):
    os._exit(7)


def reports_text(trained, epoch, members):
    return replace(trained, metrics={"loss": "low"})


def dies_for_positive(trained, epoch, members):
    if trained.member.params["x"] > 0:
        print("about to die", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return trained


def endless_epoch(trained, epoch, members):
    while epoch == 2:
        time.sleep(0.02)
    return trained


def slow(trained, epoch, members):
    time.sleep(0.1)
    return trained


def hangs(trained, epoch, members):
    if epoch == 2:
        threading.Event().wait()
    return trained


def lacks_memory(trained, epoch, members):
    """There is memory for two."""
    if len(members) > 2:
        raise MemoryError("for two only")
    return trained


def cannot_be_saved(trained, epoch, members):
    return replace(trained, member=replace(trained.member, history=(object(),)))


class Faulty(Named):
    """The fates of `faulty.fails_in_every_way`, in packs."""

    def pack_key(self, params):
        return None

    def packs(self, device):
        return FaultyPacks()


class FaultyPacks(NamedPacks):
    def epoch(self, members):
        time.sleep(0.05)
        fates = {member.params["fate"] for member in members}
        if fates & {1, 11}:
            raise ValueError("this configuration is bad")
        if 7 in fates:
            threading.Event().wait()
        if fates & {4, 14}:
            subprocess.Popen(["sleep", "3600"])
        results = []
        for member in members:
            history = (*member.history, len(member.history) + 1)
            loss = float("nan") if member.params["fate"] == 9 else curve(member.params, len(history))
            trained = replace(member, history=history)
            results.append(Trained(trained, {"loss": loss, "length": len(history)}))
        return results

    def save(self, member, epoch, path):
        if member.params["fate"] == 5 and first_time("full"):
            raise OSError(28, "No space left on device")
        super().save(member, epoch, path)
