"""Training functions that workers import: quick ones, and ones that go wrong in every way."""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

SPACE = {
    "x": {"type": "float", "low": -1.0, "high": 1.0},
    "kind": {"type": "categorical", "choices": ["round", "flat"]},
    "slope": {"type": "float", "low": 0.0, "high": 1.0, "when": {"kind": "flat"}},
}


def curve(params, epoch):
    """Loss of a configuration after `epoch` epochs."""
    return params["x"] ** 2 + params.get("slope", 0.0) / 10 + 1.0 / epoch


def quick(trial):
    for epoch in trial.epochs():
        trial.report(epoch, loss=curve(trial.params, epoch), seed=trial.seed)


class SlowToLoad:
    """`quick`, but a worker takes a second to load it."""

    def __call__(self, trial):
        quick(trial)

    def __reduce__(self):
        return _loaded_slowly, ()


def _loaded_slowly():
    time.sleep(1.0)
    return quick


def tells_its_threads(trial):
    for epoch in trial.epochs():
        trial.report(epoch, loss=curve(trial.params, epoch), threads=int(os.environ["OMP_NUM_THREADS"]))


def named(trial):
    """The function of this module that the configuration names."""
    globals()[trial.params.pop("train")](trial)


def whatever(trial):
    """Takes any space."""
    for epoch in trial.epochs():
        trial.report(epoch, loss=1.0 / epoch)


def overfits(trial):
    """It is best after its second epoch."""
    for epoch in trial.epochs():
        with tempfile.NamedTemporaryFile() as file:
            trial.save_checkpoint(file.name)
        trial.report(epoch, loss=1.0 + abs(epoch - 2))


def saved_epochs(trial, seconds=0.0):
    """Train with checkpoints: yield after each epoch's checkpoint; then it is reported.

    `length` is that of a history that only checkpoints carry from one job, or attempt, to the next. An epoch
    takes so many seconds.
    """
    path = trial.load_checkpoint()
    history = json.loads(path.read_text()) if path else []
    with tempfile.TemporaryDirectory() as folder:
        for epoch in trial.epochs():
            time.sleep(seconds)
            history.append(epoch)
            file = Path(folder) / "state.json"
            file.write_text(json.dumps(history))
            trial.save_checkpoint(file)
            yield epoch
            trial.report(epoch, loss=curve(trial.params, epoch), length=len(history))


def with_checkpoints(trial, seconds=0.0):
    """All of `saved_epochs`."""
    for _ in saved_epochs(trial, seconds):
        pass


def logs_by_itself(trial):
    """Tells MLflow beside the trial."""
    import mlflow  # for those who do

    for epoch in saved_epochs(trial):
        mlflow.log_metric("by_itself", epoch, step=epoch)


def saves_and_raises(trial):
    """Goes wrong after an epoch with a checkpoint."""
    for epoch in trial.epochs():
        with tempfile.NamedTemporaryFile() as file:
            trial.save_checkpoint(file.name)
        trial.report(epoch, loss=1.0)
        raise RuntimeError("after all")


def tells_its_device(trial):
    """Which GPU it may use, how many threads, and on which of Ray's nodes it is."""
    node = int(trial._channel._staging.folder.parent.name.rsplit("-")[-1][:12], 16)
    gpu, threads = os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]
    trial.report(1, cuda=float(gpu), threads=float(threads), node=node)


def counts_variables(trial):
    """How many variables of its environment have a value."""
    seen = sum(value == trial.params["value"] for value in os.environ.values())
    print("two of them" if seen == 2 else "another number", flush=True)
    trial.report(1, seen=seen)


def leaves_its_time(trial):
    """Leaves a file that tells when it began."""
    Path(trial.params["folder"], f"begun-{time.time()}").touch()
    for epoch in trial.epochs():
        trial.report(epoch, loss=1.0 / epoch)


def paced(trial):
    """As `with_checkpoints`, of 30 milliseconds an epoch."""
    with_checkpoints(trial, 0.03)


def timed(trial):
    """As `with_checkpoints`, of EPOCH_SECONDS an epoch."""
    with_checkpoints(trial, float(os.environ["EPOCH_SECONDS"]))


def slow(trial):
    """Epochs of a tenth of a second, each with a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        for epoch in trial.epochs():
            time.sleep(0.1)
            file = Path(folder) / "state"
            file.write_text(str(epoch))
            trial.save_checkpoint(file)
            trial.report(epoch, loss=curve(trial.params, epoch))


def never_reports(trial):
    while True:
        time.sleep(0.05)


def endless_epoch(trial):
    """Saves a checkpoint after the first epoch, then never ends the second."""
    with tempfile.TemporaryDirectory() as folder:
        for epoch in trial.epochs():
            if epoch == 2:
                while True:
                    time.sleep(0.05)
            file = Path(folder) / "state"
            file.write_text("first")
            trial.save_checkpoint(file)
            trial.report(epoch, loss=1.0)


def unstoppable(trial):
    """Reports once, then swallows whatever would end it."""
    trial.report(1, loss=1.0)
    while True:
        try:
            time.sleep(1)
        except BaseException:
            continue


def raises(trial):
    raise ValueError(f"x is {trial.params['x']:.3f}\nand more")


def raises_for_positive(trial):
    if trial.params["x"] > 0:
        raise ValueError("x is positive")
    quick(trial)


def dies_for_positive(trial):
    if trial.params["x"] > 0:
        print("about to die", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    quick(trial)


def exits(trial):
    sys.exit(3)


def exits_at_once(trial):
    os._exit(7)


def returns_early(trial):
    trial.report(1, loss=1.0)


def says_nothing(trial):
    pass


def nan_for_positive(trial):
    for epoch in trial.epochs():
        trial.report(epoch, loss=float("nan") if trial.params["x"] > 0 else curve(trial.params, epoch))


def swallows_everything(trial):
    """Careless code that catches Exception around its report."""
    for epoch in trial.epochs():
        try:
            time.sleep(0.05)
            trial.report(epoch, loss=1.0 / epoch)
        except Exception:
            continue


def reports_backwards(trial):
    trial.report(2, loss=1.0)
    trial.report(1, loss=1.0)


def reports_text(trial):
    trial.report(1, loss="low")


def better_but_slower(trial):
    """The larger x, the better and the slower: 20 + 10 x milliseconds, measured in the first epoch only."""
    with tempfile.TemporaryDirectory() as folder:
        for epoch in trial.epochs():
            file = Path(folder) / "state"
            file.write_text(str(epoch))
            trial.save_checkpoint(file)
            latency = {"latency_ms": 20 + 10 * trial.params["x"]} if epoch == 1 else {}
            trial.report(epoch, loss=1 - trial.params["x"] + 1 / epoch, **latency)


def recall_rises(trial):
    """A recall of half, then whole; its size grows beyond any bound at the end."""
    with tempfile.TemporaryDirectory() as folder:
        for epoch in trial.epochs():
            file = Path(folder) / "state"
            file.write_text(str(epoch))
            trial.save_checkpoint(file)
            trial.report(
                epoch,
                loss=1 / epoch,
                recall=0.5 if epoch < 3 else 1.0,
                size=float("nan") if epoch > 4 else 1.0,
            )


def latency_at_the_end(trial):
    for epoch in trial.epochs():
        latency = {"latency_ms": 20 + 10 * trial.params["x"]} if epoch == 3 else {}
        trial.report(epoch, loss=curve(trial.params, epoch), **latency)


def gap_and_latency(trial):
    for epoch in trial.epochs():
        trial.report(epoch, loss=1.0, latency_ms=20, loss_gap=trial.params["x"])


def one_is_late(trial):
    """Trial x = 0 gets to a loss of 1/2 after a while; the other measures its latency in the end only."""
    for epoch in trial.epochs():
        time.sleep(0.05)
        if trial.params["x"] == 0:
            trial.report(epoch, loss=0.5 if epoch > 20 else 1.0, latency_ms=5)
        else:
            trial.report(epoch, loss=1.0)


def raises_or_is_slow(trial):
    if trial.params["x"] > 0:
        raise ValueError("x is positive")
    trial.report(1, loss=1.0, latency_ms=100)


def logs_as_a_script(trial):
    """Uses the fluent API as a script does; so twice in a worker, and again when it is promoted."""
    import mlflow

    mlflow.set_experiment("of its own")
    with mlflow.start_run(run_name="mine", tags={"team": "vision"}):
        mlflow.log_params({**trial.params, "layers": 3})
        for epoch in trial.epochs():
            mlflow.log_metric("gradient", epoch / 10, step=epoch)
            mlflow.log_metrics({"loss": 99.0, "best_loss": 99.0}, step=epoch - 1)
            with mlflow.start_run(run_name=f"fold {epoch}", nested=True):
                mlflow.log_metric("loss", -epoch)
            mlflow.log_text("seen", "notes.txt")
            trial.report(epoch, loss=1.0 / epoch, size=epoch)
            mlflow.log_metric("size", 99.0, step=epoch)
    mlflow.log_metric("afterwards", 1.0)  # begins the run again, and leaves it open
