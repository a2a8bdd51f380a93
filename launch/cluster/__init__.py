"""What runs jobs: SLURM or this machine, its resources, the batch script, the copy of the code."""
