"""One step of a run executed again, to see what happened in it."""
