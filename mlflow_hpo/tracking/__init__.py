"""MLflow is the only store: run tree, buffered writer, checkpoints, reading back."""
