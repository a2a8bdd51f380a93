"""The trainer's step beside a bare loop with the same model, and channels-last beside plain NCHW, in one run.

    python tools/benchmark.py [--backbone tf_efficientnet_lite0 --size 224 --batch 16 --steps 8 --repeats 5]

Prints medians of interleaved repeats and their ratio. Input is synthetic: this times the step, not the loader
(tools/benchmark_loader.py does that).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from masksup.config import Config
from masksup.config_file import validate
from masksup.engine.build import new_method, new_network
from masksup.engine.optim import set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.precision import choose_device, choose_dtype, memory_format, set_numerics
from masksup.engine.step import Stepper
from masksup.runtime.place import Place

CLASSES = 20


def main() -> None:
    args = _arguments()
    tree = {
        "data": {"train": "-"},
        "model": {"backbone": args.backbone, "size": args.size},
        "batch": {"global": args.batch},
        "precision": {"dtype": args.dtype, "threads": args.threads},
    }
    config = validate(tree, "benchmark")
    plain = validate({**tree, "precision": {**tree["precision"], "channels_last": False}}, "benchmark")
    threads = set_numerics(config.precision)
    contenders = {
        "trainer's step": _trainer(config, args.batch),
        "bare loop, same model": _bare(config, args.batch),
        "bare loop, plain NCHW": _bare(plain, args.batch),
    }
    for run in contenders.values():
        run()  # warm up: allocations, autotuning
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(args.repeats):
        for name, run in contenders.items():
            began = time.perf_counter()
            for _ in range(args.steps):
                run()
            _wait()
            seconds[name].append((time.perf_counter() - began) / args.steps)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {threads} threads"
    print(f"{args.backbone} @ {args.size}, batch {args.batch}, {args.dtype}, {device}, torch {torch.__version__}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"  {name:24s} {1000 * median:9.2f} ms a step  {args.batch / median:8.1f} images/s")
    ours, bare, nchw = seconds.values()
    print(f"  overhead of the trainer  {100 * (_ratio(ours, bare) - 1):9.2f} %   (goal 2 %, gate 5 %)")
    print(f"  over plain NCHW          {_ratio(nchw, ours):9.2f} x   (goal 2 x, gate 1.5 x)")


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


def _trainer(config: Config, batch: int) -> Callable[[], None]:
    device = choose_device(config.precision)
    dtype = choose_dtype(config.precision, device)
    network = new_network(config, CLASSES).to(device).to(memory_format=memory_format(config.precision))
    method = new_method(config, network, CLASSES, None).to(device).train()
    engine = make_engine(config, method, device, dtype, Place())
    stepper = Stepper(engine, device, dtype, 0)
    data, steps = _batch(batch, config.model.size), iter(range(10**9))

    def run() -> None:
        set_rates(engine.param_groups, 1e-4, None)
        stepper.step([data], next(steps), 0.0)

    return run


def _bare(config: Config, batch: int) -> Callable[[], None]:
    """What one would write in twenty lines: the same network, loss and optimiser, nothing else."""
    device = choose_device(config.precision)
    dtype = choose_dtype(config.precision, device)
    network = new_network(config, CLASSES).to(device).to(memory_format=memory_format(config.precision)).train()
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
    return parser.parse_args()


if __name__ == "__main__":
    main()
