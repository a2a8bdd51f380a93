"""A training step of MaskSup beside a plain step with the same network, batch and optimiser, in one run.

    python tools/benchmark_methods.py [--backbone tf_efficientnet_lite0 --size 224 --batch 8 --repeats 7]

The steps are interleaved one by one; prints their medians and the median of the ratios pair by pair. Input is
synthetic and resident: this times the step, not the loader.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from masksup.config_file import validate
from masksup.engine.build import new_method, new_network
from masksup.engine.optim import set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.precision import choose_device, choose_dtype, memory_format, set_numerics
from masksup.engine.step import Stepper
from masksup.runtime.place import Place

CLASSES = 20
GOAL, GATE = 2.03, 2.1
CONTENDERS = {
    "plain": {"name": "baseline"},
    "masksup, separate": {"name": "masksup", "views": "separate"},
    "masksup, concat": {"name": "masksup", "views": "concat"},
}


def main() -> None:
    args = _arguments()
    steps = {name: _stepper(args, method) for name, method in CONTENDERS.items()}
    for step in steps.values():
        step()  # warm up: allocations, autotuning
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.repeats):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.backbone} @ {args.size}, batch {args.batch}, {args.dtype}, {device}, torch {torch.__version__}")
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, seconds["plain"]))
        print(f"  {name:20s} {1000 * statistics.median(values):9.1f} ms a step  {ratio:6.3f} x plain")
    print(f"  (goal {GOAL} x, gate {GATE} x)")


def _stepper(args: argparse.Namespace, method: dict[str, str]) -> Callable[[], object]:
    tree = {
        "data": {"train": "-"}, "model": {"backbone": args.backbone, "size": args.size}, "method": method,
        "batch": {"global": args.batch}, "precision": {"dtype": args.dtype, "threads": args.threads},
    }  # fmt: skip
    config = validate(tree, "benchmark")
    set_numerics(config.precision)
    device = choose_device(config.precision)
    dtype = choose_dtype(config.precision, device)
    network = new_network(config, CLASSES).to(device).to(memory_format=memory_format(config.precision))
    built = new_method(config, network, CLASSES, None)
    built.prepare(config.seed)
    built.to(device).train()
    engine = make_engine(config, built, device, dtype, Place())
    set_rates(engine.param_groups, 1e-4, None)
    stepper = Stepper(engine, device, dtype, 0)
    images = torch.randint(0, 256, (args.batch, 3, args.size, args.size), dtype=torch.uint8)
    batch = {
        "image": images.to(device, memory_format=torch.channels_last),
        "target": torch.randint(0, 2, (args.batch, CLASSES), dtype=torch.int8, device=device),
        "sample": torch.arange(args.batch, device=device), "position": torch.arange(args.batch, device=device),
    }  # fmt: skip
    return lambda: stepper.step([batch], 0, 0.0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
