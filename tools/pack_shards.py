"""An index of image files -> the same index with its images in tar shards, which are read by offset.

    python tools/pack_shards.py data/voc2012/train --out data/voc2012_shards/train --shard-size 1G

The new folder takes the place of the old one in every setting and command: same samples, labels and hash, same batches,
same scores. It holds all it needs and may be moved. `--check` reads every image of a packed index again and compares it
with the hash that was taken when the data were prepared.
"""

import argparse
import re
import sys
from pathlib import Path

from masksup.data.index import open_index
from masksup.data.write_shards import check_shards, pack_index
from masksup.exits import status_of

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def main(argv: list[str] | None = None) -> int:
    """Pack or check one index. Returns 0, or 2 for a mistake in the input or a full disk, which leaves nothing."""
    args = _parser().parse_args(argv)
    return status_of("pack_shards", lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    index = open_index(args.index)
    if args.check:
        print(f"{args.index}: {check_shards(index)} images are as they were when the data were prepared")
        return
    packed = pack_index(index, args.out, args.shard_size, print)
    assert packed.shards is not None
    print(f"{args.out}: {packed.images} images in {len(packed.shards.names)} shards, hash {packed.hash[:12]} as before")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder that `masksup prepare` wrote")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="DIR", help="new folder for the index and its shards")
    what.add_argument("--check", action="store_true", help="compare every image with its hash; write nothing")
    parser.add_argument("--shard-size", type=_bytes, default="1G", metavar="SIZE",
                        help="most bytes of a shard, e.g. 500M (default 1G)")  # fmt: skip
    return parser


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    if match is None or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of bytes such as 500M or 1G")
    return int(match[1]) * _UNITS[match[2]]


if __name__ == "__main__":
    sys.exit(main())
