"""Photographs, an index of them and networks, for rows that need some."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from masksup.config.load import validate
from masksup.config.schema import Config
from masksup.data.index import Index, open_index
from masksup.data.prepare.assemble import RawSplit, Sample, assemble
from masksup.data.write_index import write_index
from tools.speeds.measured import Setting

CLASSES = 20
_SIZE = (640, 480)  # px, as photographs of COCO
_BLUR = 1.2  # px: JPEGs of the noise then have about as many bytes as photographs


def index_of_photos(setting: Setting, most: int) -> Index:
    """An index of up to `most` photographs of `setting.photos`, or of drawn ones; with labels drawn at random."""
    files = sorted((setting.photos or _drawn(setting.folder / "photos", min(most, 64))).glob("*.jpg"))[:most]
    draw = np.random.default_rng(0)
    samples = [
        Sample(file.stem, file.name, (draw.random(CLASSES) < 0.1).astype(np.int8), str(file)) for file in files
    ]  # fmt: skip
    names = tuple(f"class {number}" for number in range(CLASSES))
    (content,) = assemble(
        files[0].parent, "photos", [RawSplit("all", samples, str(files[0].parent))], names, skip_broken=False
    )
    write_index(setting.folder / "index", content)
    return open_index(setting.folder / "index")


def _drawn(folder: Path, count: int) -> Path:
    """JPEGs of blurred noise, which take as long to decode as photographs do."""
    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (*_SIZE[::-1], 3), np.uint8)
        picture = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(_BLUR))
        picture.save(folder / f"{number:04}.jpg", quality=90)
    return folder


def configured(setting: Setting, index: Index | None = None, **sections: object) -> Config:
    """EfficientNet-Lite0 at 224 px, or a test network at 32 px in the tiny form, with one thread."""
    model = {"backbone": "test_resnet", "size": 32} if setting.tiny else {"backbone": "tf_efficientnet_lite0"}
    tree = {
        "data": {"train": str(index.folder) if index else "-"}, "model": model,
        "precision": {"threads": 1}, **sections,
    }  # fmt: skip
    return validate(tree, "benchmark")
