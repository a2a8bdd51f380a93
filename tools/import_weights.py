"""The former name of `masksup import`."""

import sys

from masksup.cli import main

if __name__ == "__main__":
    sys.exit(main(["import", *sys.argv[1:]]))
