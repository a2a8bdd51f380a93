"""From annotation files to batches: `prepare` writes an index, `dataset` reads samples by position."""
