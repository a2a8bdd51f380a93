"""Runs in MLflow and in Weights & Biases: read from their folders, live or later; knows nothing of torch."""
