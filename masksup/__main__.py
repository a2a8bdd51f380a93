"""`python -m masksup`, the same as the console command; what torchrun and srun start."""

import sys

from masksup.cli import main

if __name__ == "__main__":
    sys.exit(main())
