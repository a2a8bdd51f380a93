"""Choosing how to train on a set of images, by cross-validation on its training part alone."""
