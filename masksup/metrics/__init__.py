"""Exact multi-label scores in numpy. Every score names its rule; ignored pairs never count."""
