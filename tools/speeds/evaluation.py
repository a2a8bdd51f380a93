"""Images a second of scoring and of `masksup predict`, over a bare loop with the same loader and network."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from masksup.base.place import ALONE
from masksup.config.schema import Config
from masksup.data.dataset import EvalDataset
from masksup.data.decode import decode_bytes
from masksup.data.index import Index
from masksup.data.loader import eval_loader, workers_of
from masksup.data.split import Part, whole
from masksup.data.transforms import eval_transform
from masksup.data.url import Source
from masksup.decisions.decisions import default_decisions
from masksup.engine.build import new_method, new_network
from masksup.engine.precision import memory_format, set_numerics
from masksup.evaluation.blocks import Block, image_blocks
from masksup.evaluation.collect import Pairs
from masksup.evaluation.forward import Predictor, collect
from masksup.evaluation.scores import evaluate
from masksup.methods.method import Method
from masksup.output.labels import Row, print_labels, write_scores
from masksup.runtime.ranks import Group
from masksup.saved.label import label, load_blocks
from masksup.saved.open import Trained
from tools.speeds.measured import Arm, By, Figure, Setting, Times, interleaved, median, noise, ratio
from tools.speeds.scenes import configured, index_of_photos

_GOAL = 0.95
_CLOCKS: dict[By, str] = {"cpu": "processor time", "clock": "the clock"}
MOST = 64


def scoring(setting: Setting) -> Iterator[Figure]:
    """Forward, collect, every score of the part; all but opening the model and the intervals of a final table."""
    index = index_of_photos(setting, 8 if setting.tiny else MOST)
    for workers in (0,) if setting.tiny else (0, 1):
        config = configured(setting, index, eval={"batch": 4 if setting.tiny else 32}, data=data_of(index, workers))
        set_numerics(config.precision)
        part, method = whole(index), _method(config)
        bare = partial(_bare_scoring, method, part, config)
        arms: dict[str, Arm] = {"ours": partial(_score, method, part, config), "bare": bare, "bare again": bare}
        times = interleaved(arms, setting.rounds)
        yield from figures(f"scoring {len(part)} photographs", times, len(part), workers)


def predicting(setting: Setting) -> Iterator[Figure]:
    """`masksup predict` of 1,000 photographs to a CSV, once its model is open."""
    index = index_of_photos(setting, 8 if setting.tiny else MOST)
    files: list[Source] = [Path(index.path(number)) for number in range(len(index))]
    files *= 1 if setting.tiny else max(1, 1000 // len(files) + 1)
    files = files[: 8 if setting.tiny else 1000]
    workers = 0 if setting.tiny else 1
    config = configured(setting, index, eval={"batch": 4 if setting.tiny else 32}, data=data_of(index, workers))
    set_numerics(config.precision)
    trained = trained_of(config, index)
    bare = partial(_bare_predicting, trained.method, files, config)
    arms: dict[str, Arm] = {"ours": partial(_predict, trained, files, setting.folder), "bare": bare, "bare again": bare}
    times = interleaved(arms, setting.rounds, warm=False)  # the photographs are read once for the index
    yield from figures(f"predict of {len(files)} photographs", times, len(files), workers)


def data_of(index: Index, workers: int) -> dict[str, object]:
    return {"train": str(index.folder), "workers": workers}


def figures(what: str, times: Times, images: int, workers: int) -> Iterator[Figure]:
    """By processor time, and with other processes or threads by the clock too, which sees that they work at once."""
    for by in ("cpu", "clock") if workers else ("cpu",):
        rates = {name: round(images / median(times, name, by), 1) for name in times}
        yield Figure(f"{what}, {workers} workers, by {_CLOCKS[by]}: images/s over a bare loop's",
                     ratio(times, "bare", "ours", by), "x", ("at least", _GOAL), noise(times, "bare", "bare again", by),
                     {"images_per_second": rates})  # fmt: skip


def _method(config: Config) -> Method:
    torch.manual_seed(0)
    network = new_network(config, 20).to(memory_format=memory_format(config.precision))
    return new_method(config, network, 20, None).eval()


def trained_of(config: Config, index: Index) -> Trained:
    method = _method(config)
    return Trained(
        config, index.classes, method.network, method, "benchmark", "", 0, 0.0, "live", None, "", reading=index.reading
    )


def _score(method: Method, part: Part, config: Config) -> None:
    def blocks(numbers: range) -> Iterator[Block]:
        return image_blocks(part, config, numbers)

    predictor = Predictor(method.predict, config, torch.device("cpu"), torch.float32)
    outputs = collect(Pairs(part, config), predictor, blocks, Group(ALONE, config.parallel))
    assert outputs is not None
    evaluate(outputs, part, config)


@torch.inference_mode()
def _bare_scoring(method: Method, part: Part, config: Config) -> Tensor:
    dataset = EvalDataset(part.index, eval_transform(config.augment, config.model.size))
    blocks = eval_loader(dataset, config.eval.batch, workers_of(config.data))
    return torch.cat([method.network(block["image"]) for block in blocks])


def _predict(trained: Trained, files: list[Source], folder: Path) -> None:
    decisions, rows = default_decisions(trained.classes, 0.5), list[Row]()
    with redirect_stdout(io.StringIO()):
        for block in load_blocks(files, trained, []):
            for file, scores_C, _ in label(block, trained, decisions):
                rows.append((file, scores_C))
                print_labels(file, scores_C, decisions)
    write_scores(folder / "labels.csv", rows, decisions, {"checkpoint": "benchmark", "weights": "live"})


class _Photos(Dataset[Tensor]):
    """The same pixels, as one would read them by hand."""

    def __init__(self, files: list[Source], config: Config) -> None:
        self.files, self.transform = files, eval_transform(config.augment, config.model.size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Tensor:
        file = self.files[number]
        assert isinstance(file, Path)
        image = decode_bytes(file.read_bytes(), str(file), exif=True, max_pixels=10**8)
        return self.transform(image, None)[0]  # type: ignore[arg-type]  # which evaluation does not draw from


@torch.inference_mode()
def _bare_predicting(method: Method, files: list[Source], config: Config) -> Tensor:
    loader = DataLoader(_Photos(files, config), config.eval.batch, num_workers=workers_of(config.data))
    layout = memory_format(config.precision)
    return torch.cat([method.network(images.to(memory_format=layout)) for images in loader]).sigmoid()
