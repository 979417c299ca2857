"""A tiny Lightning module and its training; workers import this."""

import lightning
import mlflow
import torch
from torch.utils.data import DataLoader, TensorDataset

from mlflow_hpo.integrations.lightning import TrialCallback

SPACE = {"learning_rate": {"type": "float", "low": 0.01, "high": 0.3, "log": True}}


class Net(lightning.LightningModule):
    def __init__(self, learning_rate):
        super().__init__()
        self.learning_rate = learning_rate
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))

    def step(self, batch):
        return torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1])

    def training_step(self, batch, _):
        loss = self.step(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, _):
        self.log("val_loss", self.step(batch))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)]


def fitted(trial, callback, **options):
    """Train a trial, and return the trainer."""
    torch.manual_seed(0)
    X = torch.randn(32, 4)
    data = TensorDataset(X, X.sum(1, keepdim=True))
    torch.manual_seed(trial.seed)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=-1, accelerator="cpu", callbacks=[callback], enable_checkpointing=False, **quiet, **options
    )
    trainer.fit(
        Net(**trial.params),
        DataLoader(data, 8, shuffle=True),
        DataLoader(data, 32),
        ckpt_path=trial.load_checkpoint(),
        weights_only=True,
    )
    return trainer


def train(trial):
    fitted(trial, TrialCallback(trial))
    mlflow.log_param("ended", "in good order")
