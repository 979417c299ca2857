"""An ordinary MLflow project: XGBoost with autologging."""

import sys

import mlflow
import xgboost
from sklearn.datasets import load_breast_cancer

rounds, learning_rate, max_depth = map(float, sys.argv[1:])
X, y = load_breast_cancer(return_X_y=True)
mlflow.xgboost.autolog(log_models=False, log_datasets=False)
xgboost.train(
    {"objective": "binary:logistic", "eta": learning_rate, "max_depth": int(max_depth), "nthread": 1},
    xgboost.DMatrix(X[:400], y[:400]),
    num_boost_round=int(rounds),
    evals=[(xgboost.DMatrix(X[400:], y[400:]), "test")],
    verbose_eval=False,
)
