"""A tiny model of Transformers and its training; workers import this."""

import mlflow
import torch
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from mlflow_hpo.integrations.transformers import TrialCallback

SPACE = {"learning_rate": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}
EPOCHS = 9


class Net(PreTrainedModel):
    config_class = PretrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.5)

    def forward(self, x, labels):
        found = self.layers(x)
        return {"loss": torch.nn.functional.mse_loss(found, labels), "logits": found}


def fitted(trial, callback, folder, **options):
    """Train a trial, and return the trainer."""
    torch.manual_seed(0)
    X = torch.randn(32, 4)
    data = [{"x": x, "labels": x.sum(0, keepdim=True)} for x in X]
    arguments = TrainingArguments(
        folder,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=8,
        learning_rate=trial.params["learning_rate"],
        seed=trial.seed % 2**31,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        save_total_limit=1,
        **options,
    )
    torch.manual_seed(trial.seed)
    trainer = Trainer(
        Net(PretrainedConfig()), arguments, train_dataset=data, eval_dataset=data, callbacks=[callback]
    )
    trainer.train(resume_from_checkpoint=callback.checkpoint(folder))
    return trainer


def train(trial):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        fitted(trial, TrialCallback(trial, metrics=["eval_loss"]), folder)
    mlflow.log_param("ended", "in good order")
