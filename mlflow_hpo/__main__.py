"""`python -m mlflow_hpo` is `mlflow-hpo`."""

from mlflow_hpo.cli import main

main(prog_name="mlflow-hpo")
