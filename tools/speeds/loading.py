"""Training images a second and core: this loader over another, smaller files over the files, threads over processes."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch

from masksup.config.load import validate
from masksup.config.schema import Config
from masksup.data.index import Index
from masksup.data.loader import Workers, train_loader
from masksup.data.reencode import Reencoding
from masksup.data.split import make_plan, train_dataset, whole
from masksup.data.write_shards import pack_index
from tools.benchmark_loader import baseline, ours
from tools.speeds.measured import By, Figure, Setting, Times, interleaved, median, noise, ratio
from tools.speeds.scenes import index_of_photos

_SIZE = 448
_BATCH = 16


def loader(setting: Setting) -> Iterator[Figure]:
    """Over PIL and torchvision's first transforms, on the same files, in one thread."""
    index = index_of_photos(setting, 4 if setting.tiny else 64)
    files, size = [index.path(sample) for sample in range(len(index))], 32 if setting.tiny else _SIZE
    torch.set_num_threads(1)
    by_hand = partial(baseline(size, floats=True), files)
    times = interleaved({"ours": partial(ours(size), files), "PIL": by_hand, "PIL again": by_hand}, setting.rounds)
    what = f"loader at {size} px over PIL and torchvision v1"
    yield Figure(what, ratio(times, "PIL", "ours"), "x", ("at least", 2.0),
                 noise(times, "PIL", "PIL again"), _rates(times, len(files)))  # fmt: skip


def smaller(setting: Setting) -> Iterator[Figure]:
    """Shards of plain pixels and of smaller JPEGs over the image files, loaded for training."""
    files = index_of_photos(setting, 4 if setting.tiny else 64)
    steps = 1 if setting.tiny else 4
    raw, at_448, at_224 = Reencoding(None), Reencoding(90, 512), Reencoding(90, 256)
    for number, (size, how) in enumerate(((448, raw), (448, at_448), (224, at_224))):
        packed = pack_index(files, setting.folder / f"shards {number}", 1 << 30, lambda _: None, how)
        again = _loads(files, size, steps)
        times = interleaved(
            {"shards": _loads(packed, size, steps), "files": again, "files again": again}, setting.rounds
        )
        what = f"shards over files at {size} px; {how}"
        yield Figure(what, ratio(times, "files", "shards"), "x", ("at least", 2.5) if how == raw else None,
                     noise(times, "files", "files again"), _rates(times, steps * _BATCH))  # fmt: skip


def workers(setting: Setting) -> Iterator[Figure]:
    """Loader threads over loader processes, from the first batch asked for to the last, at 1, 2 and 4 of them."""
    index, size = index_of_photos(setting, 4 if setting.tiny else 64), 32 if setting.tiny else 224
    for count in (1,) if setting.tiny else (1, 2, 4):
        steps = 1 if setting.tiny else 8
        processes = _loads(index, size, steps, count)
        arms = {"threads": _loads(index, size, steps, count, "threads"), "processes": processes, "again": processes}
        times = interleaved(arms, setting.rounds)
        clocks: tuple[tuple[By, str], ...] = (("clock", "the clock"), ("cpu", "processor time"))
        for by, name in clocks:
            rates = {each: round(steps * _BATCH / median(times, each, by), 1) for each in times}
            yield Figure(f"{count} loader threads over as many processes at {size} px, by {name}: images/s",
                         ratio(times, "processes", "threads", by), "x", None, noise(times, "processes", "again", by),
                         {"images_per_second": rates})  # fmt: skip


def _rates(times: Times, images: int) -> dict[str, object]:
    return {"images_per_second": {name: round(images / median(times, name), 1) for name in times}}


def _loads(index: Index, size: int, steps: int, workers: int = 0, kind: Workers = "processes") -> Callable[[], object]:
    """Loads so many steps of a training, in this process where there are no workers."""
    torch.set_num_threads(1)
    config = _config(index, size, workers)
    plan = make_plan(config, whole(index))

    def load() -> object:
        batches = train_loader(train_dataset(config, whole(index), plan), 0, workers, kind=kind)
        return list(islice(batches, steps))

    return load


def _config(index: Index, size: int, workers: int) -> Config:
    return validate(
        {"data": {"train": str(index.folder), "workers": workers}, "model": {"backbone": "resnet18", "size": size},
         "batch": {"global": _BATCH}, "epochs": 1000, "augment": {"crop": "random_resized"}},
        "benchmark",
    )  # fmt: skip
