"""What `masksup.train` and `masksup.evaluate` do, and give."""
