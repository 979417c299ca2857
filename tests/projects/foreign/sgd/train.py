"""An ordinary MLflow project: SGD on the digits, epoch by epoch."""

import argparse
import time

import mlflow
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

parser = argparse.ArgumentParser()
parser.add_argument("--alpha", type=float, required=True)
parser.add_argument("--eta0", type=float, required=True)
parser.add_argument("--loss", required=True)
parser.add_argument("--epochs", type=float, required=True)
parser.add_argument("--fail-above", type=float, required=True)
options = parser.parse_args()

X, y = load_digits(return_X_y=True)
X = X / 16
model = SGDClassifier(
    alpha=options.alpha, loss=options.loss, learning_rate="constant", eta0=options.eta0, random_state=0
)
with mlflow.start_run():
    mlflow.log_params(vars(options))
    for epoch in range(int(options.epochs)):
        model.partial_fit(X[:1000], y[:1000], classes=range(10))
        accuracy = model.score(X[1000:], y[1000:])
        mlflow.log_metrics(
            {"val_accuracy": accuracy, "train_accuracy": model.score(X[:1000], y[:1000])}, step=epoch
        )
        print(f"epoch {epoch}: {accuracy:.3f}", flush=True)
        if options.alpha > options.fail_above:
            raise ValueError(f"alpha {options.alpha} is too large")
        time.sleep(0.4)
