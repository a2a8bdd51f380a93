"""The trainer's step beside a bare loop with the same model, and channels-last beside plain NCHW, in one run.

    python -m tools.benchmark_step [--backbone tf_efficientnet_lite0 --size 224 --batch 16 --steps 8 --repeats 5]
    python -m tools.benchmark_step --ranks 2 [...]  # one rank and two, beside a bare loop and a bare DDP loop; scoring

Prints medians of interleaved repeats and their ratio. Input is synthetic: this times the step, not the loader
(tools/benchmark_loader.py does that). With --ranks, the batch is that of a rank, and the first rank also works alone
while the others wait; then the outputs of --scored images are gathered, by a model that costs nothing, and once more
with the outputs kept on disk, under the hash of the weights of --backbone, as an evaluation at the end of a run does.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from masksup.base.place import ALONE, Place
from masksup.config.load import validate
from masksup.config.schema import Config
from masksup.data.sampler import share_of
from masksup.data.split import Part
from masksup.engine.build import new_method, new_network
from masksup.engine.optim import set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.precision import choose_device, choose_dtype, placed, set_numerics
from masksup.engine.state import hash_of
from masksup.engine.step import Stepper
from masksup.evaluation.blocks import Block
from masksup.evaluation.collect import Pairs
from masksup.evaluation.forward import Predictor, collect
from masksup.evaluation.kept import Unfinished
from masksup.runtime.ranks import Group, Vote

CLASSES = 20
SCORED_CLASSES = 80


def main() -> None:
    args = _arguments()
    if args.ranks > 1:
        with tempfile.TemporaryDirectory() as folder:
            new = multiprocessing.get_context("spawn").Process
            ranks = [new(target=_be_a_rank, args=(rank, args, folder)) for rank in range(args.ranks)]
            for process in ranks:
                process.start()
            for process in ranks:
                process.join()
        raise SystemExit(max(abs(process.exitcode or 0) for process in ranks))
    config = step_config(args, 1)
    plain = step_config(args, 1, channels_last=False)
    set_numerics(config.precision)
    contenders = {
        "trainer's step": trainer_step(config, args.batch),
        "bare loop, same model": bare_step(config, args.batch),
        "bare loop, plain NCHW": bare_step(plain, args.batch),
    }
    for run in contenders.values():
        run()  # warm up: allocations, autotuning
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(args.repeats):
        for name, run in contenders.items():
            seconds[name].append(_timed(run, args.steps))
    print(_title(args))
    for name, values in seconds.items():
        _print_speed(name, values, args.batch)
    ours, bare, nchw = seconds.values()
    print(f"  overhead of the trainer  {100 * (_ratio(ours, bare) - 1):9.2f} %   (goal 2 %, gate 5 %)")
    print(f"  over plain NCHW          {_ratio(nchw, ours):9.2f} x   (goal 2 x, gate 1.5 x)")


def _be_a_rank(rank: int, args: argparse.Namespace, folder: str) -> None:
    alone, together, world = step_config(args, 1), step_config(args, args.ranks), args.ranks
    set_numerics(alone.precision)
    on_gpu = choose_device(alone.precision).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    place = Place(rank, world, rank, world, "torchrun")
    contenders = {
        "trainer's step, 1 rank": (trainer_step(alone, args.batch), False),
        "bare loop, 1 rank": (bare_step(alone, args.batch), False),
        f"trainer's step, {world} ranks": (trainer_step(together, args.batch, place), True),
        f"bare DDP loop, {world} ranks": (bare_step(together, args.batch, place), True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(-1, args.repeats):  # the first to warm up
        for name, (run, on_all) in contenders.items():
            dist.barrier()
            spent = _timed(run, args.steps) if on_all or rank == 0 else 0.0
            if repeat >= 0:
                seconds[name].append(spent)
    control = dist.new_group(backend="gloo")
    assert isinstance(control, dist.ProcessGroup)
    group = Group(place, together.parallel, control)
    gathering = _time_of_scoring(args, together, group)
    keeping = _time_of_scoring(args, together, group, Path(folder) / "kept") - gathering
    if rank == 0:
        print(_title(args))
        for name, values in seconds.items():
            _print_speed(name, values, args.batch * (1 if "1 rank" in name else world))
        ours, bare, ours_all, bare_all = seconds.values()
        print(f"  trainer over bare DDP    {100 * (_ratio(ours_all, bare_all) - 1):9.2f} %")
        print(f"  scaling, trainer         {100 * _ratio(ours, ours_all):9.1f} % of {world} times one rank")
        print(f"  scaling, bare loop       {100 * _ratio(bare, bare_all):9.1f} %")
        print(f"  gathering {args.scored} x {SCORED_CLASSES} scores  {1000 * gathering:9.0f} ms")
        print(f"  keeping them too         {1000 * keeping:9.0f} ms more")
    dist.barrier()
    dist.destroy_process_group()


def _time_of_scoring(args: argparse.Namespace, config: Config, group: Group, kept: Path | None = None) -> float:
    """Seconds to bring the logits of all samples to rank 0 in their order, checked: median of `--repeats`.

    kept: a folder where they are kept on disk as well.
    """
    network, vote = new_network(config, SCORED_CLASSES), Vote(group)
    rows, size = np.arange(args.scored), config.eval.batch
    nothing: Any = None  # no image is read
    part = Part(nothing, rows)

    def blocks(numbers: range) -> Iterator[Block]:
        for number in numbers:
            row_B = torch.arange(number * size, (number + 1) * size)
            valid_B = row_B < args.scored
            yield torch.zeros(size, SCORED_CLASSES, 1, 1), valid_B, ~valid_B, row_B.clamp(max=args.scored - 1)

    seconds = []
    for _ in range(args.repeats):
        unfinished = None
        if kept is not None:
            unfinished = Unfinished(kept, lambda: hash_of(network), group, vote, minutes=60, to_the_end=True)
        dist.barrier()
        began = time.perf_counter()
        predictor = Predictor(lambda x_BC11: x_BC11.flatten(1), config, torch.device("cpu"), torch.float32)
        collect(Pairs(part, config), predictor, blocks, group, unfinished=unfinished)
        seconds.append(time.perf_counter() - began)
        vote.drain()
        if unfinished is not None:
            unfinished.discard()
    return statistics.median(seconds)


def step_config(args: argparse.Namespace, world: int, channels_last: bool = True) -> Config:
    tree = {
        "data": {"train": "-"},
        "model": {"backbone": args.backbone, "size": args.size},
        "batch": {"global": args.batch * world, "micro": args.batch},
        "precision": {"dtype": args.dtype, "threads": args.threads, "channels_last": channels_last},
    }
    return validate(tree, "benchmark")


def _timed(run: Callable[[], None], steps: int) -> float:
    """Seconds a step."""
    began = time.perf_counter()
    for _ in range(steps):
        run()
    _wait()
    return (time.perf_counter() - began) / steps


def _title(args: argparse.Namespace) -> str:
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, threads a rank: {torch.get_num_threads()}"
    return f"{args.backbone} @ {args.size}, batch {args.batch}, {args.dtype}, {device}, torch {torch.__version__}"


def _print_speed(name: str, seconds: list[float], images: int) -> None:
    median = statistics.median(seconds)
    print(f"  {name:24s} {1000 * median:9.2f} ms a step  {images / median:8.1f} images/s")


def _ratio(a: list[float], b: list[float]) -> float:
    """Median of the ratios pair by pair, which a machine that slows down for a while disturbs least."""
    return statistics.median(x / y for x, y in zip(a, b))


def _batch(batch: int, size: int) -> dict[str, Tensor]:
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    return {
        "image": images.to(memory_format=torch.channels_last),
        "target": torch.randint(0, 2, (batch, CLASSES), dtype=torch.int8),
        "sample": torch.arange(batch),
        "position": torch.arange(batch),
    }


def trainer_step(config: Config, batch: int, place: Place = ALONE) -> Callable[[], None]:
    device = choose_device(config.precision)
    dtype = choose_dtype(config.precision, device)
    network = placed(new_network(config, CLASSES), device, config.precision)
    method = new_method(config, network, CLASSES, None).to(device).train()
    engine = make_engine(config, method, device, dtype, place)
    stepper = Stepper(engine, device, 0)
    data, steps = _batch(batch, config.model.size), iter(range(10**9))
    share = share_of(place.world, batch * place.world, place.rank, place.world)
    stepper.warm_up(data, 0, 0.0)

    def run() -> None:
        set_rates(engine.param_groups, 1e-4, None)
        stepper.step([data], next(steps), 0.0, share)

    return run


def bare_step(config: Config, batch: int, place: Place = ALONE) -> Callable[[], None]:
    """What one would write in twenty lines: the same network, loss and optimiser, and DDP, nothing else."""
    device = choose_device(config.precision)
    dtype = choose_dtype(config.precision, device)
    network: torch.nn.Module = new_network(config, CLASSES)
    network = placed(network, device, config.precision).train()
    if place.world > 1:
        network = DistributedDataParallel(
            network, device_ids=None if device.type == "cpu" else [torch.cuda.current_device()]
        )
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=True)
    data = _batch(batch, config.model.size)
    if not config.precision.channels_last:
        data["image"] = data["image"].contiguous()

    def run() -> None:
        images, targets = data["image"].to(device, non_blocking=True), data["target"].to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = network(images)
        torch.autograd.backward(F.binary_cross_entropy_with_logits(logits.float(), targets.float()))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--scored", type=int, default=40504, help="images whose outputs are gathered, with --ranks")
    return parser.parse_args()


if __name__ == "__main__":
    main()
