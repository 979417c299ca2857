"""Hyperparameter search on the MLflow that a team already has."""
