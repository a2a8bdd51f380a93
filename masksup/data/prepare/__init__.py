"""From annotation files to indexes: one module a layout; `samples` joins annotations and images."""
