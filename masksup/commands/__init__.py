"""A module for each command of `masksup`."""
