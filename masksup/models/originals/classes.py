"""The class orders that the originals trained with; no file holds one."""

from pathlib import Path

from masksup.data.prepare.options import class_list
from masksup.data.prepare.voc import VOC_CLASSES
from masksup.data.prepare.wider import WIDER_CLASSES

# By ascending category id, as CSRA and MSL order them; MCAR sorts the names.
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

ORDERS = {
    "voc": VOC_CLASSES,
    "coco": COCO_CLASSES,
    "coco-alphabetical": tuple(sorted(COCO_CLASSES)),
    "wider": WIDER_CLASSES,
}


def classes_named(text: str) -> tuple[str, ...]:
    """The classes that `--classes` means: a known order, a file with one a line, or a list A,B,C. UserError else."""
    return ORDERS[text] if text in ORDERS else class_list(text, Path())
