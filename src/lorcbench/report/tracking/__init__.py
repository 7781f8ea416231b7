"""Results become runs in MLflow: what is said of a cell, the store, and the saved view that a study opens with."""

import os

# Read by MLflow while it is imported, so this comes before: usage reports go nowhere, setting up a store says nothing.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
