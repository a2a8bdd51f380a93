"""A training step of each method beside a plain step with the same network, batch and optimiser, in one run.

    python -m tools.benchmark_methods [--backbone tf_efficientnet_lite0 --size 224 --batch 8 --repeats 7]

The steps are interleaved one by one; prints their medians, the median of the ratios pair by pair, and the most memory
that a step takes beside the weights it begins with. Without a GPU the time is the processor time of this process, which
other work on the machine distorts less than the clock. Input is synthetic and resident: this times the step, not the
loader. `--only oass` takes the contenders whose name contains it, beside the plain ones.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch

from masksup.config.load import validate
from masksup.config.schema import Config
from masksup.engine.precision import set_numerics
from tools.step_time import interleaved_seconds, new_step, ratios

CLASSES = 20
PLAIN = "plain"
# name: (head, method, most steps of `plain` that a step may take)
CONTENDERS: dict[str, tuple[str, dict[str, Any], float | None]] = {
    PLAIN: ("linear", {"name": "baseline"}, None),
    "plain, csi head": ("csi", {"name": "baseline"}, None),
    "masksup, separate": ("linear", {"name": "masksup", "views": "separate"}, 2.05),
    "masksup, concat": ("linear", {"name": "masksup", "views": "concat"}, 2.1),
    "mcar, top 4": ("linear", {"name": "mcar", "top": 4}, 5 * 1.15),
    "puzzle": ("linear", {"name": "puzzle"}, None),
    "oass, max": ("linear", {"name": "oass", "strategy": "max"}, 2.4),
    "oass, max, csi head": ("csi", {"name": "oass", "strategy": "max"}, 2.4),
    "oass, cmax": ("linear", {"name": "oass", "strategy": "cmax"}, None),
    "oass, ctopk": ("linear", {"name": "oass", "strategy": "ctopk"}, None),
    "oass, ctopk_w": ("linear", {"name": "oass", "strategy": "ctopk_w"}, None),
}
HEAD_MEMORY = 1.3  # a plain step with the csi head over one with the linear head


def main() -> None:
    args = _arguments()
    chosen = [name for name in CONTENDERS if name.startswith(PLAIN) or args.only in name]
    configs = {name: contender_config(args, name) for name in chosen}
    set_numerics(configs[PLAIN].precision)
    steps = {name: new_step(config, CLASSES) for name, config in configs.items()}
    seconds = interleaved_seconds(steps, args.repeats)
    ratio = ratios(seconds, to=PLAIN)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.backbone} @ {args.size}, batch {args.batch}, {args.dtype}, {device}, torch {torch.__version__}")
    for name, values in seconds.items():
        limit = CONTENDERS[name][2]
        print(
            f"  {name:20s} {1000 * statistics.median(values):9.1f} ms a step  {ratio[name]:6.3f} x plain"
            f"{f' (limit {limit:g})' if limit else ''}",
            flush=True,
        )
    memory = {name: peak_memory(step) for name, step in steps.items()}
    for name, held in memory.items():
        print(f"  {name:20s} {held / 2**20:9.1f} MiB in a step  {held / memory[PLAIN]:6.3f} x plain")
    print(f"  (limit of the csi head over the linear one, plain steps: {HEAD_MEMORY} x)")


def peak_memory(step: Callable[[], object]) -> int:
    """The most bytes that one step holds beyond what there was before it: activations, gradients, temporaries."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    assert profile.profiler is not None
    results = profile.profiler.kineto_results
    assert results is not None
    changes = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    held = most = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        held += change
        most = max(most, held)
    return most


def contender_config(args: argparse.Namespace, name: str) -> Config:
    head, options, _ = CONTENDERS[name]
    if options["name"] == "puzzle" and args.size % 64:
        options = {**options, "tile": args.size // 2}  # tiles keep their size; their maps overlap a little
    tree = {
        "data": {"train": "-"}, "model": {"backbone": args.backbone, "size": args.size, "head": {"name": head}},
        "method": options, "batch": {"global": args.batch},
        "precision": {"dtype": args.dtype, "threads": args.threads},
    }  # fmt: skip
    return validate(tree, "benchmark")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="contenders whose name contains this")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
