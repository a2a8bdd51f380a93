"""A module for each command of `masksup`: `add_arguments(parser)`, and `run(args)`, which imports what is heavy."""
