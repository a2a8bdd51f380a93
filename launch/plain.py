"""The name of `launch.without_submitit` in scripts that were queued by an earlier version."""

import sys

from launch.without_submitit import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
