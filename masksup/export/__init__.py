"""From a trained run to one file that runs without this package, checked against the run."""
