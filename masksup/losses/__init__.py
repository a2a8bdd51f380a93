"""Losses over logits_BC and ternary targets_BC (1 present, 0 absent, -1 ignored)."""
