"""The cluster side: a configuration becomes SLURM jobs that come back by themselves. Imports no torch."""
