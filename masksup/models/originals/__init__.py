"""Checkpoints of the original projects: which one a file is, what its tensors are called here, what it leaves out."""
