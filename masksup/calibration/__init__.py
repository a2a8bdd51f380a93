"""Calibrated probabilities and thresholds of a trained model, fitted on its evaluation split."""
