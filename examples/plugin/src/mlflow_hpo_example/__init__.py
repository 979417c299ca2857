"""A searcher, a scheduler and a launcher for mlflow_hpo."""
