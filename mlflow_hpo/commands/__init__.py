"""The commands of `mlflow-hpo` that search nothing, and what all commands share."""
