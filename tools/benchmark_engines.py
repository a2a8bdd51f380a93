"""Engines and ZeRO stages on real ranks, beside a bare DDP loop: what they compute, how they resume, what they cost.

    python -m tools.benchmark_engines [--ranks 1 2 --stages 0 1 2 3 --steps 20 --repeats 9 --json FILE]

Prints a table in Markdown: engine, stage and ranks -> largest relative difference of the losses over the steps from
those of one process (of the same micro-batches), whether a run of half the steps that fresh processes go on from ends
bit-equal, median time of a step over that of a bare DDP loop in the same processes (single steps in turn), the same of
a second bare loop (a difference below that is noise), and by how much the memory of a rank has grown at most since
before the network was made. Input is synthetic and resident; on CPUs the ranks talk over gloo, with one thread each.
`--json` also appends each row to a file, as a line of JSON.
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from masksup.base.files import as_json
from masksup.base.place import Place
from masksup.config.load import validate
from masksup.config.schema import Config
from masksup.data.sampler import share_of
from masksup.engine.optim import set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.parallel.zero_settings import import_deepspeed
from masksup.engine.precision import choose_device, choose_dtype, set_numerics
from masksup.engine.step import Stepper
from masksup.runtime.checkpoint import State
from masksup.runtime.gpus import choose_backend, take_gpu
from tools.bare_loop import bare_loop, resident_batch, resident_method

Engine = tuple[str, int]  # name, ZeRO stage


def main() -> None:
    args = _arguments()
    if args.rank is not None:
        _be_a_rank(args)
        return
    if any(args.micro_batches % world for world in args.ranks):
        raise SystemExit(f"--micro-batches: found {args.micro_batches}, expected a multiple of each of --ranks")
    print(
        f"{args.backbone} @ {args.size}, {args.micro_batches} micro-batches of {args.micro} a step, {args.steps} "
        f"steps of AdamW, {args.dtype}, {_machine()}, torch {torch.__version__}\n"
    )
    print("| engine | ranks | loss difference | resume | step over bare DDP | bare DDP over itself | memory, MB |")
    print("|---|--:|--:|---|--:|--:|--:|")
    engines: list[Engine] = [] if args.without_ddp else [("tree", 0), ("ring", 0)]
    engines += [("deepspeed", stage) for stage in args.stages]
    with tempfile.TemporaryDirectory() as folder:
        reference = _launch(args, ("tree", 0), 1, Path(folder), "losses")["losses"]
        for world in args.ranks:
            for engine in engines:
                row = _measure(args, engine, world, Path(folder))
                row["difference"] = max(abs(a - b) / abs(b) for a, b in zip(row["losses"], reference))
                _print_row(engine, world, row)
                if args.json is not None:
                    with args.json.open("a") as out:
                        out.write(as_json({"engine": _title(engine), "ranks": world, **row}) + "\n")


def _measure(args: argparse.Namespace, engine: Engine, world: int, folder: Path) -> dict[str, Any]:
    """Two launches: a whole run with its timing and a half one, then the rest of the half one."""
    before = _launch(args, engine, world, folder, "start")
    after = _launch(args, engine, world, folder, "rest")
    return {**before, "equal": before["digest"] == after["digest"]}


def _title(engine: Engine) -> str:
    name, stage = engine
    return f"ZeRO {stage}" if name == "deepspeed" else f"ddp, {name}"


def _print_row(engine: Engine, world: int, row: dict[str, Any]) -> None:
    resumed = "bit-equal" if row["equal"] else "**differs**"
    print(
        f"| {_title(engine)} | {world} | {row['difference']:.1e} | {resumed} | {row['ratio']:.3f} x | "
        f"{row['floor']:.3f} x | {row['memory']:.0f} |",
        flush=True,
    )


def _launch(args: argparse.Namespace, engine: Engine, world: int, folder: Path, part: str) -> dict[str, Any]:
    (folder / "store").unlink(missing_ok=True)
    name, stage = engine
    flags = [*sys.argv[1:], "--engine", name, "--stage", str(stage), "--world", str(world)]
    flags += ["--folder", str(folder), "--part", part]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tools.benchmark_engines", *flags]
    ranks = [subprocess.Popen([*words, "--rank", str(rank)], env=env) for rank in range(world)]
    try:
        codes = [process.wait(args.deadline) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    if any(codes):
        raise SystemExit(f"{name}, stage {stage}, {world} ranks: exit statuses {codes}")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def _be_a_rank(args: argparse.Namespace) -> None:
    config = _config(args)
    set_numerics(config.precision)
    device = choose_device(config.precision)
    backend = choose_backend("auto", device.type == "cuda")
    if device.type == "cuda":
        take_gpu(Place(args.rank, args.world, args.rank, args.world), backend)
    store = f"file://{args.folder / 'store'}"
    dist.init_process_group(backend, init_method=store, rank=args.rank, world_size=args.world)
    result = {"losses": _losses, "start": _start, "rest": _rest}[args.part](config, args, device)
    if args.rank == 0:
        (args.folder / "result.json").write_text(as_json(result))
    dist.barrier()
    dist.destroy_process_group()


def _losses(config: Config, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    trainer = _Trainer(config, args, device)
    return {"losses": [trainer.loss(step) for step in range(args.steps)]}


def _start(config: Config, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """A whole run, its memory and time, and half a run, whose state is kept."""
    if args.engine == "deepspeed":
        import_deepspeed(device)  # the program itself is not counted
    before = _memory(device)
    whole = _Trainer(config, args, device)
    result: dict[str, Any] = {"losses": [whole.loss(step) for step in range(args.steps)], "digest": whole.digest()}
    result["memory"] = _memory(device) - before
    result |= _time(whole, [bare_loop(config, args, device) for _ in range(2)], args)
    begun = _Trainer(config, args, device)
    for step in range(args.steps // 2):
        begun.step(step)
    torch.save(begun.stepper.engine.export_state(), args.folder / f"state.{args.rank}")
    return result


def _rest(config: Config, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    resumed = _Trainer(config, args, device)
    state = torch.load(args.folder / f"state.{args.rank}", weights_only=True)
    resumed.stepper.engine.import_state(State(*state))
    for step in range(args.steps // 2, args.steps):
        resumed.step(step)
    return {"digest": resumed.digest()}


class _Trainer:
    """The trainer's step by the engine that is measured."""

    def __init__(self, config: Config, args: argparse.Namespace, device: torch.device) -> None:
        method, dtype = resident_method(config, device), choose_dtype(config.precision, device)
        place = Place(args.rank, args.world, args.rank, args.world, "torchrun")
        self.stepper = Stepper(make_engine(config, method, device, dtype, place), device, config.seed)
        blocks = config.parallel.sum == "tree"
        self.share = share_of(args.micro_batches, config.batch.global_, args.rank, args.world, blocks)
        self.args, self.warm = args, False

    def step(self, step: int) -> Tensor:
        """One step; this rank's part of its loss."""
        batches = [resident_batch(self.args, step, index) for index in self.share.indices]
        if not self.warm:
            self.stepper.warm_up(batches[0], step, 0.0)
            self.warm = True
        set_rates(self.stepper.engine.param_groups, 3e-4, None)
        return self.stepper.step(batches, step, 0.0, self.share)["loss"].sum()

    def loss(self, step: int) -> float:
        """One step; its loss over all ranks."""
        whole = self.step(step).double()
        dist.all_reduce(whole)
        return float(whole)

    def digest(self) -> list[str]:
        """The hash of the whole state on each rank, buffers of its own included."""
        tensors, _ = self.stepper.engine.export_state()
        hashed = hashlib.blake2b(digest_size=16)
        for name in sorted(tensors):
            hashed.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        digests = [""] * self.args.world
        dist.all_gather_object(digests, hashed.hexdigest())
        return digests


def _time(ours: _Trainer, bare: list[Callable[[int], Tensor]], args: argparse.Namespace) -> dict[str, float]:
    """Medians over rounds of interleaved steps: of ours over the first bare loop, and of the second over the first."""
    ratios: list[float] = []
    floors: list[float] = []
    for run in bare:
        run(0)
    for repeat in range(args.repeats):
        seconds = []
        for run in (ours.step, *bare):
            dist.barrier()
            began = time.perf_counter()
            float(run(args.steps + repeat))  # a GPU is waited for
            dist.barrier()
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1])
        floors.append(seconds[2] / seconds[1])
    return {"ratio": statistics.median(ratios), "floor": statistics.median(floors)}


def _config(args: argparse.Namespace) -> Config:
    parallel: dict[str, Any] = {"engine": "ddp", "sum": args.engine}
    if args.engine == "deepspeed":
        parallel = {"engine": "deepspeed"}
        parallel |= {"zero_stage": args.stage, "zero_options": {"stage3_param_persistence_threshold": 1000}}
    tree = {
        "data": {"train": "-"}, "model": {"backbone": args.backbone, "size": args.size},
        "optim": {"name": "adamw", "lr": 3e-4},
        "batch": {"global": args.micro * args.micro_batches, "micro": args.micro},
        "precision": {"dtype": args.dtype, "threads": 1}, "parallel": parallel,
    }  # fmt: skip
    return validate(tree, "benchmark")


def _memory(device: torch.device) -> float:
    """Largest memory so far, MB: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{len(os.sched_getaffinity(0))} CPU cores, no GPU"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--without-ddp", action="store_true", help="DeepSpeed alone")
    parser.add_argument("--stages", type=int, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--micro", type=int, default=4)
    parser.add_argument("--micro-batches", type=int, default=4, help="of a step, over all ranks")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--deadline", type=float, default=500.0, help="seconds a launch may take")
    for name, kind in (("rank", int), ("world", int), ("stage", int), ("engine", str), ("part", str), ("folder", Path)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)  # of the processes that it starts
    return parser.parse_args()


if __name__ == "__main__":
    main()
