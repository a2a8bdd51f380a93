"""Training with its loader, over the loop that one would write by hand with the same network, photographs and batch."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from masksup.base.place import ALONE
from masksup.config.schema import Config
from masksup.data.index import Index
from masksup.data.loader import train_loader
from masksup.data.split import make_plan, train_dataset, whole
from masksup.engine.build import new_method, new_network
from masksup.engine.optim import set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.precision import placed, set_numerics
from masksup.engine.step import Stepper
from tools.benchmark_loader import by_hand
from tools.speeds.measured import Arm, Figure, Setting, interleaved, median, noise, ratio
from tools.speeds.scenes import CLASSES, configured, index_of_photos

_MOST = 64  # photographs
_STEPS = 4  # a call


def training(setting: Setting) -> Iterator[Figure]:
    """The loader and the step in one thread; the bare loop in channels-last, and as torch has it by default."""
    index = index_of_photos(setting, 8 if setting.tiny else _MOST)
    config = configured(
        setting, index, data={"train": str(index.folder), "workers": 0}, epochs=100_000,
        batch={"global": 2 if setting.tiny else 8}, augment={"crop": "random_resized", "scale": [0.7, 1.0]},
    )  # fmt: skip
    set_numerics(config.precision)
    bare = _bare_loop(index, config, torch.channels_last)
    arms: dict[str, Arm] = {"ours": _loop(index, config), "bare": bare, "bare again": bare,
                            "bare, NCHW": _bare_loop(index, config, torch.contiguous_format)}  # fmt: skip
    times = interleaved(arms, setting.rounds)
    images, floor = _STEPS * config.batch.global_, noise(times, "bare", "bare again")
    rates = {name: round(images / median(times, name), 1) for name in times}
    yield Figure("training with its loader over a bare channels-last loop with PIL and torchvision v1: images/s",
                 ratio(times, "bare", "ours"), "x", ("at least", 1.09), floor,
                 {"images_per_second": rates})  # fmt: skip
    yield Figure("the same over the bare loop in plain NCHW", ratio(times, "bare, NCHW", "ours"), "x",
                 ("at least", 1.76), floor)  # fmt: skip


def _loop(index: Index, config: Config) -> Arm:
    plan, device = make_plan(config, whole(index)), torch.device("cpu")
    batches = train_loader(train_dataset(config, whole(index), plan), 0, 0)
    network = placed(new_network(config, CLASSES), device, config.precision)
    method = new_method(config, network, CLASSES, None).train()
    stepper = Stepper(make_engine(config, method, device, torch.float32, ALONE), device, 0)
    set_rates(stepper.engine.param_groups, 1e-4, None)
    numbers = iter(range(10**9))

    def steps() -> None:
        for micro_batches in islice(batches, _STEPS):
            stepper.step(micro_batches, next(numbers), 0.0)

    return steps


class _Photos(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, index: Index, size: int) -> None:
        self._files = [Path(index.path(sample)) for sample in range(len(index))]
        self._labels = torch.from_numpy(index.labels_NC[:].copy()).float()
        self._transform = by_hand(size, floats=True)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        with Image.open(self._files[number]) as image:
            return self._transform(image.convert("RGB")), self._labels[number]


def _bare_loop(index: Index, config: Config, layout: torch.memory_format) -> Arm:
    network = timm.create_model(config.model.backbone, num_classes=CLASSES).to(memory_format=layout).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=True)
    loader = DataLoader(_Photos(index, config.model.size), config.batch.global_, shuffle=True, drop_last=True)
    batches = iter(batch for _ in iter(int, 1) for batch in loader)

    def steps() -> None:
        for images, targets in islice(batches, _STEPS):
            loss = nn.functional.binary_cross_entropy_with_logits(network(images.to(memory_format=layout)), targets)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()

    return steps
