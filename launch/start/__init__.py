"""One start of a run: the ledger, the first node, the ranks, and what becomes of it."""
