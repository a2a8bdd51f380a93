"""A model on disk and back: runs, checkpoints, archives, imported files, and the Python API."""
