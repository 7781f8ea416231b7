"""Results become runs in MLflow: what is said of a cell, the store, and the saved view that a study opens with."""
