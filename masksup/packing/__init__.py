"""One file that holds a model with everything it needs: written, checked, read in place."""
