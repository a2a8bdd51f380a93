"""Sweeps: their settings, drawn, guided or halved, and their results."""
