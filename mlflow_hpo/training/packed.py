"""PackedTrainable: a model of one's own, trained as the bundled ones are, alone or in packs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_hpo.checks import whole_number
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.packing import train_alone
from mlflow_hpo.trial import Trial

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mlflow_hpo.training.own import OwnPacks

FREE = frozenset(
    {"optimizer", "learning_rate", "weight_decay", "momentum", "beta1", "beta2", "schedule", "dropout"}
)
"""Parameters in which trials of one pack may differ; the optimizer only as far as adam and adamw go."""


class PackedTrainable:
    """Training code made of a model, a loss and data; with the launcher "packed" its trials train together.

    The parameters `optimizer` (adam, adamw or sgd), `learning_rate`, `weight_decay`, `momentum`, `beta1`,
    `beta2`, `schedule` (constant, cosine or onecycle) and `batch_size` are followed for you. Where the search
    space lacks them, the learning rate is 1e-3, a batch has 64 rows, the schedule is constant, momentum 0.9,
    and all else is as `torch.optim` has it. The other parameters are the model's. Trials whose models are
    alike train together: all parameters but those in `FREE` are the same, and both or neither have dropout.

    Each epoch reports `train_loss`, `val_loss`, what `scores` name, `epoch_seconds` and `samples_per_second`.

    Args:
        model: makes the model of a configuration, its weights drawn from torch's default generator. Its
            structure must not depend on parameters in `FREE`; dropout must be `nn.Dropout`, each used once in
            a forward pass, and is the one thing that the parameter `dropout` may decide. What it computes of
            one row may depend on others by batch normalisation only, and on nothing that is random. It goes
            through `torch.vmap`, so no control flow may depend on the values of tensors.
        loss: of outputs, shape (rows, ...), and targets, shape (rows, ...): a mean over rows, as a tensor of
            no dimensions. It goes through `torch.vmap`, too.
        data: returns `X_train`, `y_train`, `X_val` and `y_val` as arrays or tensors; called once in each
            process.
        scores: of outputs and targets of all validation rows, by the names of the metrics.
        max_epochs: horizon of the schedules in epochs, usually the study's `max_resource`.

    Raises:
        ConfigError: `max_epochs` is below 1, or a score has the name of a metric that there is anyway.
    """

    def __init__(
        self,
        model: Callable[[Mapping[str, Any]], nn.Module],
        loss: Callable[[Tensor, Tensor], Tensor],
        data: Callable[[], Sequence[Any]],
        *,
        scores: Mapping[str, Callable[[Tensor, Tensor], Any]] | None = None,
        max_epochs: int = 27,
    ) -> None:
        self.model = model
        self.loss = loss
        self.data = data
        self.scores = dict(scores or {})
        self.max_epochs = whole_number("max_epochs", max_epochs, at_least=1)
        taken = {"train_loss", "val_loss", "epoch_seconds", "samples_per_second"}
        if clash := sorted(taken & self.scores.keys()):
            raise ConfigError("scores", f"must not be called {clash[0]}, which is reported anyway")

    def __call__(self, trial: Trial) -> None:
        """Train one trial alone.

        Raises:
            ConfigError: a parameter has a value that is not allowed.
            RuntimeError: the training diverged.
        """
        train_alone(self.packs(trial.device), trial)

    def pack_key(self, params: Mapping[str, Any]) -> Hashable:
        """Return what is the same for trials that can be trained together."""
        structure = tuple(sorted((name, value) for name, value in params.items() if name not in FREE))
        return structure, bool(params.get("dropout")), params.get("optimizer") == "sgd"

    def packs(self, device: str) -> OwnPacks:
        """Return what trains trials on a device."""
        from mlflow_hpo.training.own import OwnPacks  # torch takes seconds to import; a driver needs none

        return OwnPacks(self, device)
