"""Stands for any project of the guide: logs a metric by epoch."""

import sys

import mlflow

alpha, loss = float(sys.argv[1]), sys.argv[2]
with mlflow.start_run():
    for epoch in range(3):
        mlflow.log_metric("val_accuracy", 1 - alpha / (1 + epoch) - (loss == "hinge") / 100, step=epoch)
