"""What bounds the speed of a run: measured here, read from its record, and what to change."""
