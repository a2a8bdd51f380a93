"""A whole chain in miniature: train, evaluate, export and run a configuration on a few synthetic images."""
