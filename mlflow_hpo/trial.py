"""Trial: what training code holds."""

from __future__ import annotations

import numbers
import operator
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mlflow_hpo.errors import StudyError

if TYPE_CHECKING:
    from mlflow_hpo.space import SearchSpace

NAME = re.compile(r"[\w.\- :/]+")  # of metrics, as MLflow takes them
MAX_NAME = 245  # MLflow's 250, less the prefix of the best value


class TrialStopped(BaseException):
    """Raised inside training code when its trial must end now; let it pass.

    It derives from `BaseException`, as `KeyboardInterrupt` does, so that an ``except Exception`` of the
    training code does not swallow it.
    """


class Channel(Protocol):
    """How a trial reaches what stands around it; each launcher brings its own. Used by one thread only."""

    def report(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Hand over the metrics of one epoch. Return whether to go on."""

    def save(self, epoch: int, path: Path) -> None:
        """Take a copy of the checkpoint file `path` of `epoch`; the caller may delete it afterwards."""

    def load(self) -> tuple[int, Path] | None:
        """Return the newest intact checkpoint as (epoch, local path), or None to begin from scratch."""


class Trial:
    """One training of one configuration, as the training code sees it.

    Args:
        params: the configuration, name -> value; exactly the active parameters.
        stop: train up to and including this epoch.
        seed: seed of this trial, derived from the study's seed and the trial's id.
        device: "cuda:0" or "cpu".
        channel: the way to the launcher.

    The whole contract, in one function:

    ```python
    def train(trial):
        model = build(**trial.params)
        path = trial.load_checkpoint()
        if path is not None:
            model.load(path)
        for epoch in trial.epochs():
            model.fit_one_epoch()
            model.save("model.pt")
            trial.save_checkpoint("model.pt")
            trial.report(epoch, val_accuracy=model.score())
    ```
    """

    def __init__(
        self, params: Mapping[str, Any], *, stop: int, seed: int, device: str, channel: Channel
    ) -> None:
        self.params: dict[str, Any] = dict(params)
        self.seed = seed
        self.device = device
        self._stop = stop
        self._channel = channel
        self._epoch = 0  # the epoch being trained; 0 before the first
        self._reported = 0

    def load_checkpoint(self) -> Path | None:
        """Return the newest checkpoint of this trial, or None at its first start.

        After this `epochs()` goes on behind the checkpoint's epoch. Training code that never calls it is
        trained from scratch at each promotion, and is right all the same.
        """
        found = self._channel.load()
        if found is None:
            return None
        self._epoch, path = found
        return path

    def epochs(self) -> Iterator[int]:
        """Yield the epochs left to train, counted from 1 over the trial's whole life."""
        while self._epoch < self._stop:
            self._epoch += 1
            yield self._epoch

    def save_checkpoint(self, path: str | Path) -> None:
        """Keep the file at `path` as the checkpoint of the present epoch.

        Call it before `report` of the same epoch, as often as you like: only the newest, and the one of the
        best epoch, are uploaded, when the job ends or is interrupted.

        Raises:
            StudyError: `path` is not a file, or no epoch has begun.
        """
        path = Path(path)
        if not path.is_file():
            raise StudyError(f"save_checkpoint: {path} is not a file")
        if self._epoch == 0:
            raise StudyError("save_checkpoint: call it inside `for epoch in trial.epochs()`")
        self._channel.save(self._epoch, path)

    def report(self, epoch: int, /, **metrics: float) -> None:
        """Report the metrics of one epoch.

        Raises:
            TrialStopped: the scheduler, a budget or the user ends this job here. Let it pass.
            StudyError: `epoch` is not a whole number or does not ascend, a name is not one that MLflow takes,
                or a value is not a number.
        """
        epoch = _whole(epoch)
        if epoch <= self._reported:
            raise StudyError(f"report: epoch {epoch} after epoch {self._reported}; epochs must ascend")
        if not metrics:
            raise StudyError("report: no metric given; write trial.report(epoch, val_accuracy=...)")
        for name in metrics:
            _check_name(name)
        values = {name: _number(name, value) for name, value in metrics.items()}
        self._reported = epoch
        if not self._channel.report(epoch, values):
            raise TrialStopped


def _whole(epoch: Any) -> int:
    try:
        return operator.index(epoch)
    except TypeError:
        raise StudyError(f"report: the epoch must be a whole number, got {epoch!r:.80}") from None


def is_metric_name(name: str) -> bool:
    """Whether MLflow takes `name`, and that of its best value, for a metric."""
    is_path = posixpath.normpath(name) != name or name == "." or name.startswith(("..", "/"))
    return len(name) <= MAX_NAME and NAME.fullmatch(name) is not None and not is_path


def _check_name(name: str) -> None:
    """Refuse what MLflow would refuse: there it would cost the whole study."""
    if not is_metric_name(name):
        raise StudyError(
            f"report: {name!r:.80} is no name for a metric; it must be of 1 to {MAX_NAME} letters, digits, "
            "blanks and any of _ - . : /, and not read as another path"
        )


def _number(name: str, value: Any) -> float:
    if isinstance(value, numbers.Real):
        return float(value)
    try:  # zero-dimensional arrays and tensors
        return float(value.item())
    except (AttributeError, TypeError, ValueError):
        raise StudyError(
            f"report: {name} must be a number, got {type(value).__name__} {value!r:.80}"
        ) from None


@runtime_checkable
class Described(Protocol):
    """Training code that says more of itself than a plain function, so that more is checked, and earlier."""

    def prepare(self) -> None:
        """Load and check what all trials need, before anything is launched. Raises ConfigError."""

    def check_params(self, space: SearchSpace) -> None:
        """Raise ConfigError for a parameter or a value of it that the training does not know."""

    def describe(self) -> Mapping[str, str]:
        """Return facts about data and task for the parent run's tags; "data" holds the task's name."""


@runtime_checkable
class DescribedTraining(Described, Protocol):
    """A described function that knows its metrics, and what its checkpoints hold."""

    def __call__(self, trial: Trial) -> object:
        """Train one trial."""

    @property
    def metrics(self) -> frozenset[str]:
        """Names of the metrics that every epoch reports."""

    def import_ahead(self) -> None:
        """Import what takes long and `log_model` needs; called in a thread while workers start."""

    def log_model(
        self, checkpoint: Path, params: Mapping[str, Any], *, registered_model_name: str | None
    ) -> None:
        """Log the model of a checkpoint into the active MLflow run, and register it if a name is given."""
