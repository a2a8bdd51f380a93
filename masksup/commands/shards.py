"""`masksup shards`: an index of image files becomes the same index with its images in tar shards.

    masksup shards data/voc2012/train --out data/voc2012_shards/train --shard-size 1G

The images are read by offset. The new folder takes the place of the old one in every setting and command: same samples,
labels and hash, same batches, same scores. It holds all it needs and may be moved. `--check` reads every image of a
packed index again and compares it with the hash that was taken when the data were prepared.

    masksup shards data/coco2014/train --out data/coco2014_q90/train --reencode q90 --short-side 512

Large photographs are slow to decode. This stores smaller ones: other images, so the hash is another one, and every
score of them says so.

    masksup shards data/coco2014/train --out data/coco2014_raw/train --reencode raw

This stores the pixels as they are, so that nothing is left to decode: the batches are those of the files, bit for bit,
and loading is fastest. A photograph of 640 x 480 takes 0.9 MB, about five times what its JPEG does.
"""

import argparse
import re
from pathlib import Path

from masksup.base.words import counted

_RAW = "raw"
_SHARD = "1G"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder that `masksup prepare` wrote")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="DIR", help="new folder for the index and its shards")
    what.add_argument("--check", action="store_true", help="compare every image with its hash; write nothing")
    parser.add_argument("--shard-size", type=_bytes, metavar="SIZE",
                        help=f"most bytes of a shard, e.g. 500M (default: {_SHARD})")  # fmt: skip
    parser.add_argument("--reencode", type=_form, metavar="qN|raw",
                        help="store every image as a JPEG of this quality, q1 to q100, e.g. q90; "
                        "raw: as its pixels, so that nothing is left to decode")  # fmt: skip
    parser.add_argument("--short-side", type=_pixels, metavar="PIXELS",
                        help="with --reencode: shrink images whose shorter side is longer, e.g. 512")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Pack or check one index. A mistake in the input or a full disk leaves nothing behind."""
    from masksup.data.index import open_index
    from masksup.data.reencode import Reencoding
    from masksup.data.write_shards import check_shards, pack_index
    from masksup.errors import UserError

    if args.short_side is not None and args.reencode is None:
        raise UserError("--short-side: found it without --reencode, expected both, such as --reencode q90")
    for option, found in (("--reencode", args.reencode), ("--shard-size", args.shard_size)):
        if args.check and found is not None:
            raise UserError(f"{option}: found it with --check, which writes nothing, expected it with --out")
    index = open_index(args.index)
    if args.check:
        print(f"{args.index}: {counted(check_shards(index), 'image')}, as when the data were prepared")
        return
    how = (
        None if args.reencode is None else Reencoding(None if args.reencode == _RAW else args.reencode, args.short_side)
    )
    packed = pack_index(index, args.out, args.shard_size or _bytes(_SHARD), print, how)
    assert packed.shards is not None
    print(
        f"{args.out}: {counted(packed.images, 'image')} in {counted(len(packed.shards.names), 'shard')}, "
        f"hash {packed.hash[:12]} {'as before' if how is None else f'(before: {index.hash[:12]}), {how}'}"
    )


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    if match is None or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of bytes such as 500M or 1G")
    return int(match[1]) * _UNITS[match[2]]


def _form(text: str) -> int | str:
    match = re.fullmatch(r"q(\d+)", text)
    if text == _RAW:
        return text
    if match is None or not 1 <= int(match[1]) <= 100:
        raise argparse.ArgumentTypeError(f"found {text}, expected raw, or q1 to q100 such as q90")
    return int(match[1])


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of pixels such as 512")
    return int(text)
