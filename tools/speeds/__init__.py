"""The rows of `python -m tools.benchmark all`: what is measured, and the peer or bare form beside it."""
