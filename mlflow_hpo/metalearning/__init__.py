"""What earlier tasks taught: mined from MLflow, and turned into configurations for a new task."""
