"""Training service for multi-label image recognition. Importing it loads nothing heavy."""

__version__ = "0.1.0"
