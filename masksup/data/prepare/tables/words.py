"""What columns, values and "nothing" are called in the tables that people have."""

import re
import unicodedata
from functools import lru_cache

_BETWEEN = re.compile(r"[\s_.\-]+")
_WHOLE = re.compile(r"([0-9]{1,99})(?:\.0+)?")
_DECIMAL_COMMA = re.compile(r"-?[01],0+")

# The first that a table has is its column of images; an id comes after a name of a file.
IMAGE_NAMES = (
    "image", "filename", "file", "path", "filepath", "imagepath", "imagename", "imagefile", "imagefilename",
    "imagefilepath", "imgpath", "imgname", "imgfile", "img", "fname", "imageindex", "images", "filenames", "photo",
    "picture", "imageid", "imgid", "id", "name",
)  # fmt: skip
LABEL_NAMES = (
    "label", "labels", "tag", "tags", "class", "classes", "classname", "classnames", "labelname", "labelnames",
    "category", "categories", "findinglabels", "finding", "findings", "keywords", "choice", "choices", "target",
    "targets", "attributes",
)  # fmt: skip
KNOWN_IMAGE = "image, filename, file, path, image_path, image_name, image_id, 'Image Index', id, name"
KNOWN_LABELS = "label, labels, tags, classes, categories, 'Finding Labels'"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".jfif")
# What folders of splits are called.
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "eval", "trainval", "test", "testing"}
# Labels that often mean that there is none.
NOTHING = {
    "na", "n/a", "nan", "null", "none", "nofinding", "nofindings", "nolabel", "nolabels", "background", "nothing",
    "unlabeled", "unlabelled", "empty", "unknown", "<na>", "#n/a", "#na", "nil", "void", "notapplicable", "normal",
}  # fmt: skip
# Columns of 1 and 0 that are seldom classes: numbers of rows, parts of a data set, whom a picture shows.
SELDOM_CLASSES = {
    "index", "idx", "row", "rowid", "fold", "folds", "kfold", "split", "subset", "partition", "isvalid", "isval",
    "istrain", "istest", "valid", "sex", "gender", "age",
}  # fmt: skip
# Columns that say which part of the data set a row belongs to, and those that say whether it belongs to one.
SPLITTING = {"split", "splits", "subset", "partition", "phase", "usage", "dataset", "datasplit", "set"}
BELONGING = {
    "isvalid": ("train", "val"), "isval": ("train", "val"), "istest": ("train", "test"), "istrain": ("val", "train"),
}  # fmt: skip
VALUES = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "x", "present", "positive", "+", "\u2713", "\u2714"), 1),
    **dict.fromkeys(("0", "false", "f", "no", "n", "absent", "negative"), 0),
    **dict.fromkeys(("?", "u", "uncertain", "unknown"), -1),
}


def plain(name: str) -> str:
    """A name without case, blanks and what stands for them: "Image Index" and image_index are one."""
    return _BETWEEN.sub("", name.casefold())


def seems_nothing(name: str) -> bool:
    """Whether a label often means that there is none: "No Finding", "n/a", and "-" or "?" without a letter."""
    name = name.strip("[](){}'\" ")
    return plain(name) in NOTHING or all(unicodedata.category(letter)[0] in "PZ" for letter in name)


@lru_cache(1 << 16)  # asked of each pair of names
def same_but_case(name: str) -> str:
    """Equal for names that differ only in case, in blanks, in how Unicode writes the same letters, or as 3, 3.0, 03."""
    seen = (letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    same = "".join("".join(seen).casefold().split())
    return str(int(match[1])) if (match := _WHOLE.fullmatch(same)) else same


def value_word(cell: str) -> str:
    """A cell as it is compared: without case, and 1.0 as 1; 1,0 of a spreadsheet, too."""
    word = cell.strip().casefold()
    if _DECIMAL_COMMA.fullmatch(word):
        word = word.replace(",", ".")
    if word and word[-1] in "0123456789." and word not in ("0", "1", "-1"):
        try:
            number = float(word)
        except ValueError:
            return word
        return str(int(number)) if number in (0, 1, -1) else word
    return word


def looks_like_image(name: str) -> bool:
    """Whether `name` ends as files of images do, in any case."""
    return name.casefold().endswith(IMAGE_SUFFIXES)
