"""Calibrated probabilities and thresholds of a trained model, fitted on its evaluation split."""

LEAST_POSITIVES = 50
"""The fewest present labels to which `masksup calibrate` fits, and of a class that has a threshold of its own."""
