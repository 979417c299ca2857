"""An ordinary MLflow project that takes its time: a number by epoch, without steps."""

import sys
import time

import mlflow

x, epochs, seconds, metric = sys.argv[1:]
with mlflow.start_run():
    if float(x) < 0:
        raise RuntimeError("x is negative")
    for epoch in range(int(float(epochs))):
        mlflow.log_metric(metric, float(x) * epoch)
        time.sleep(float(seconds))
