"""Small pictures for a page, as data addresses: a sample as the network saw it, and the map of a class on it."""

import base64
import io

from PIL import Image
from torch import Tensor

from masksup.data.split import eval_dataset
from masksup.explain.heat import overlay
from masksup.explain.looks import Looks, look
from masksup.report.gather import Gathered

SIDE = 176  # px
QUALITY = 78


class Sampler:
    """The inputs of a run's network and what it sees in them, each computed once."""

    def __init__(self, run: Gathered) -> None:
        self._run = run
        self._data = eval_dataset(run.trained.config, run.part)
        self._looks: dict[int, Looks] = {}

    def photo(self, row: int) -> Image.Image:
        """The input of row `row` of the part, in the proportions of the photograph where it was squeezed."""
        image_3SS: Tensor = self._data[row]["image"]
        photo = Image.fromarray(image_3SS.permute(1, 2, 0).contiguous().numpy())
        width, height = self._shape(row)
        factor = SIDE / max(width, height)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        return photo.resize(size, Image.Resampling.LANCZOS)

    def mapped(self, row: int, class_: int) -> Image.Image:
        """The same under the map of a class."""
        if row not in self._looks:
            run = self._run
            present = run.present_NC[row].tolist()
            self._looks[row] = look(run.trained, run.decisions, self._data[row]["image"], present)
        return overlay(self.photo(row), self._looks[row].maps_CHW[class_])

    def _shape(self, row: int) -> tuple[int, int]:
        if self._run.trained.config.augment.eval_resize != "squish":
            return 1, 1
        index = self._run.part.index
        sample = self._data.members[row] if self._data.members is not None else row
        if len(index.crop_N4):
            x1, y1, x2, y2 = index.crop_N4[sample].tolist()
            return max(1, round(x2 - x1)), max(1, round(y2 - y1))
        width, height = index.sizes_I2[index.sample_image_N[sample]].tolist()
        return int(width), int(height)


def as_data(image: Image.Image) -> str:
    """A JPEG as a data address."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
