"""Training functions that fail in ways that a second try may not; workers import this.

What a process remembers of its earlier attempts lies in its working directory.
"""

import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from trainings import curve, saved_epochs


def first_time(name):
    """Whether nobody has asked for `name` before."""
    try:
        Path(name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def dies_once(trial):
    """Is killed after its third checkpoint, before it has reported that epoch."""
    for epoch in saved_epochs(trial):
        if epoch == 3 and first_time("died"):
            os.kill(os.getpid(), signal.SIGKILL)


def dies_once_without_checkpoints(trial):
    for epoch in trial.epochs():
        if epoch == 3 and first_time("died"):
            os._exit(7)
        trial.report(epoch, loss=curve(trial.params, epoch))


def dies_at_its_report_once(trial):
    """Is killed while it waits for the answer to its first report."""
    if first_time("died"):
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    for epoch in trial.epochs():
        trial.report(epoch, loss=1.0 / epoch)


def dies_always(trial):
    for epoch in saved_epochs(trial):
        if epoch == 2:
            os._exit(7)


def hangs_once(trial):
    """Sleeps after its second report, while a thread of its goes on."""
    for epoch in saved_epochs(trial):
        if epoch == 3 and first_time("hung"):
            threading.Thread(target=lambda: [time.sleep(0.01) for _ in range(100_000)], daemon=True).start()
            time.sleep(3600)


def lacks_memory(trial):
    """Never has enough of it for the third epoch."""
    for epoch in saved_epochs(trial):
        if epoch == 3:
            raise MemoryError("2 GiB")


def raises_late(trial):
    for epoch in saved_epochs(trial):
        if epoch == 3:
            raise ValueError("this configuration is bad")


def loses_its_data_once(trial):
    for epoch in saved_epochs(trial):
        if epoch == 2 and first_time("lost"):
            raise ConnectionResetError(104, "Connection reset by peer")


def fill_the_disk(trial, epoch):
    """Let the next copy of a checkpoint go to a device that is full."""
    folder = trial._channel._staging.folder
    (folder / f"epoch-{epoch:04d}.partial").symlink_to("/dev/full")


def fills_the_disk_once(trial):
    for epoch in saved_epochs(trial):
        if epoch == 2 and first_time("full"):
            fill_the_disk(trial, 3)


def saves_megabytes(trial):
    """Checkpoints of twice `x` megabytes."""
    with tempfile.NamedTemporaryFile(dir=".") as file:
        file.truncate(int(2e6 * trial.params["x"]))
        for epoch in trial.epochs():
            trial.save_checkpoint(file.name)
            trial.report(epoch, loss=1.0 / epoch)


def dies_when_told_to_stop(trial):
    try:
        for _ in saved_epochs(trial):
            pass
    except BaseException:
        os._exit(7)


def fails_in_every_way(trial):
    """Of 20 fates two raise, one hangs, one reports NaN, and two leave a process behind.

    The disk is full for one checkpoint of one trial.
    """
    fate = trial.params["fate"]
    if fate in (4, 14):
        subprocess.Popen(["sleep", "3600"])
    if fate == 9:
        trial.params["x"] = float("nan")
    for epoch in saved_epochs(trial, 0.05):
        if fate in (1, 11):
            raise ValueError("this configuration is bad")
        if fate == 7:
            threading.Event().wait()
        if fate == 5 and epoch == 1 and first_time("full"):
            fill_the_disk(trial, 1)
            trial.save_checkpoint(__file__)
