"""The former name of `masksup shards`."""

import sys

from masksup.cli import main

if __name__ == "__main__":
    sys.exit(main(["shards", *sys.argv[1:]]))
