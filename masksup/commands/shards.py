"""`masksup shards`: an index of image files becomes the same index with its images in tar shards.

    masksup shards data/voc2012/train --out data/voc2012_shards/train --shard-size 1G

The images are read by offset. The new folder takes the place of the old one in every setting and command: same samples,
labels and hash, same batches, same scores. It holds all it needs and may be moved. `--check` reads every image of a
packed index again and compares it with the hash that was taken when the data were prepared.
"""

import argparse
import re
from pathlib import Path

from masksup.base.words import counted

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder that `masksup prepare` wrote")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="DIR", help="new folder for the index and its shards")
    what.add_argument("--check", action="store_true", help="compare every image with its hash; write nothing")
    parser.add_argument("--shard-size", type=_bytes, default="1G", metavar="SIZE",
                        help="most bytes of a shard, e.g. 500M (default 1G)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Pack or check one index. A mistake in the input or a full disk leaves nothing behind."""
    from masksup.data.index import open_index
    from masksup.data.write_shards import check_shards, pack_index

    index = open_index(args.index)
    if args.check:
        print(f"{args.index}: {counted(check_shards(index), 'image')}, as when the data were prepared")
        return
    packed = pack_index(index, args.out, args.shard_size, print)
    assert packed.shards is not None
    print(
        f"{args.out}: {counted(packed.images, 'image')} in {counted(len(packed.shards.names), 'shard')}, "
        f"hash {packed.hash[:12]} as before"
    )


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    if match is None or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of bytes such as 500M or 1G")
    return int(match[1]) * _UNITS[match[2]]
