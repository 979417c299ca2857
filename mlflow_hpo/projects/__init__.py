"""MLflow projects: what a search must know of one to run its entry point."""
