"""Choosing how to train on a set of images, by cross-validation on its training part alone."""

CHOICES = "choices.json"
"""In the folder of a search: what was tried, with which score, and what was chosen."""
FOLDS = "folds"
"""Beside it: the runs of single folds, which are nobody's runs."""
