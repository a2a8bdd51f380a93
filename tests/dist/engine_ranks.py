"""Engines on real gloo ranks, as processes: what they compute, and how they go on from each other's state.

A `Job` trains a small network on made-up batches, which are functions of (step, micro-batch); every rank of a launch
does the same jobs one after the other. The results of a job come back per rank.
"""

import ctypes
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

import masksup

DEADLINE = 600  # seconds; a launch takes a tenth of it where nothing else runs
CLASSES = 12
MICRO = 4


@dataclass
class Job:
    """`tree`: settings; `steps`: how many from `first` on; `origin`: the job whose state is gone on from, if any.

    `origin` is a path such as `folder/job`. `poison`: the step in which the last rank sees infinity; in such a job
    memory that was never written holds NaN. `without`: steps that are left out. `unused`: the network has a parameter
    that one micro-batch in three has no gradient for, and one that none has.
    """

    name: str
    tree: dict[str, Any]
    steps: int
    first: int = 0
    origin: str | None = None
    poison: int | None = None
    without: tuple[int, ...] = ()
    unused: bool = False


@dataclass(frozen=True)
class Result:
    """Of one rank: loss (the sum over ranks), norm and number of skipped steps after each step, and its state."""

    losses: list[float]
    norms: list[float]
    skipped: list[int]
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    finite: list[bool]
    """After the steps of a poisoned job: whether each of its micro-batches has a finite gradient."""


def settings(**overrides: Any) -> dict[str, Any]:
    """Batch norm, dropout, several parameter groups and several buckets; `a__b=c` overrides a.b."""
    tree: dict[str, Any] = {
        "seed": 5,
        "data": {"train": "-"},
        "model": {"backbone": "test_resnet", "size": 32, "head": {"name": "linear", "dropout": 0.2}},
        "optim": {"name": "adamw", "lr": 0.0003, "clip": 1.0, "head_factor": 3.0, "decay": "matrices"},
        "batch": {"global": 6 * MICRO, "micro": MICRO},
        "precision": {"threads": 1, "dtype": "fp32"},
        "parallel": {"bucket_mb": 0.05},
    }
    for key, value in overrides.items():
        node = tree
        *parents, last = key.split("__")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def zero(stage: int, **overrides: Any) -> dict[str, Any]:
    """The same by DeepSpeed; at stage 3 every parameter is taken apart, however small."""
    apart = {"stage3_param_persistence_threshold": 0}
    more = {"parallel__engine": "deepspeed", "parallel__zero_stage": stage, "parallel__zero_options": apart}
    return settings(**{**more, **overrides})


def launch(world: int, jobs: list[Job], folder: Path, deadline: float = DEADLINE) -> dict[str, list[Result]]:
    """Run `jobs` on `world` fresh processes; results by job, a list over ranks. Leaves no process behind."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    (folder / "store").unlink(missing_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(masksup.__file__).parents[1])}
    ends = time.monotonic() + deadline
    command = [sys.executable, "-P", str(Path(__file__)), str(folder), str(world)]
    with (folder / "imports.out").open("w") as out:
        ranks = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        code = ranks.wait(max(ends - time.monotonic(), 1))
    finally:
        if ranks.poll() is None:
            os.killpg(ranks.pid, signal.SIGKILL)
            ranks.wait()
    texts = {out.stem: out.read_text() for out in sorted(folder.glob("*.out"))}
    assert not code, "\n".join(f"{name}:\n{text[-3000:]}" for name, text in texts.items())
    return {job.name: [read(folder, job.name, rank) for rank in range(world)] for job in jobs}


def read(folder: Path, name: str, rank: int) -> Result:
    return Result(**torch.load(folder / f"{name}.{rank}.pt", weights_only=True))


def batch(step: int, index: int, size: int = 32) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1000 * step + index)
    images = torch.randint(0, 256, (MICRO, 3, size, size), dtype=torch.uint8, generator=draw)
    targets = torch.randint(-1, 2, (MICRO, CLASSES), dtype=torch.int8, generator=draw)
    position = torch.arange(MICRO) + MICRO * (step * 100 + index)
    return {"image": images, "target": targets, "sample": position, "position": position}


def _state(origin: Path, rank: int, world: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What this rank goes on from: its own buffers where the number of ranks is the same, their mean elsewhere."""
    files = sorted(origin.parent.glob(f"{origin.name}.*.pt"))
    saved = [torch.load(file, weights_only=True) for file in files]
    if len(saved) == world:
        return saved[rank]["tensors"], saved[rank]["meta"]
    tensors = dict(saved[0]["tensors"])
    for name in tensors:
        if "running_" in name:
            tensors[name] = torch.stack([one["tensors"][name] for one in saved]).mean(0)
    return tensors, saved[0]["meta"]


def _run(job: Job, folder: Path, rank: int, world: int) -> None:
    import torch.distributed as dist

    from masksup.base.place import Place
    from masksup.config.auto import with_sum
    from masksup.config.load import validate
    from masksup.data.sampler import share_of
    from masksup.engine.build import new_method, new_network
    from masksup.engine.optim import set_rates
    from masksup.engine.parallel.engine import make_engine
    from masksup.engine.precision import choose_dtype, memory_format
    from masksup.engine.step import Stepper
    from masksup.models.lora import add_lora
    from masksup.runtime.checkpoint import State

    config, cpu = with_sum(validate(job.tree, "test")), torch.device("cpu")
    dtype = choose_dtype(config.precision, cpu)
    network = new_network(config, CLASSES).to(memory_format=memory_format(config.precision))
    network.backbone.frozen_batch_norm = config.model.batchnorm == "frozen"
    if config.model.lora.rank:
        add_lora(network.backbone, config.model.lora, config.seed)
    method = new_method(config, network, CLASSES, None)
    if job.unused:
        _add_unused(method)
    method.set_up(config.seed)
    method.train()
    place = Place(rank, world, rank, world, "torchrun")
    stepper = Stepper(make_engine(config, method, cpu, dtype, place), cpu, config.seed)
    if job.origin is not None:
        stepper.engine.import_state(State(*_state(Path(job.origin), rank, world)))
    share = share_of(config.batch.global_ // MICRO, config.batch.global_, rank, world, config.parallel.sum == "tree")
    stepper.warm_up(batch(job.first, rank, config.model.size), job.first, 0.0)
    result: dict[str, Any] = {"losses": [], "norms": [], "skipped": []}
    _fill_new_memory(job.poison is not None)
    for step in (step for step in range(job.first, job.first + job.steps) if step not in job.without):
        set_rates(stepper.engine.param_groups, config.optim.lr / (1 + 0.1 * step), None)
        mine = [batch(step, index, config.model.size) for index in share.indices]
        poisoned = step == job.poison and rank == world - 1
        with _infinite(method) if poisoned else nullcontext():
            logs = stepper.step(mine, step, step / 100, share)
        loss = logs.get("loss", torch.zeros(0)).double().sum()  # a rank may have no micro-batch
        dist.all_reduce(loss)
        result["losses"].append(float(loss))
        result["norms"].append(float(logs["gradient_norm"]))
        result["skipped"].append(int(stepper.engine.skipped))
    tensors, result["meta"] = stepper.engine.export_state()
    tensors |= {f"method/{name}": value for name, value in method.own_state().items()}
    result["tensors"] = {name: value.detach().clone() for name, value in tensors.items()}
    with _infinite(method) if job.poison is not None and rank == world - 1 else nullcontext():
        result["finite"] = [
            stepper.gradient_is_finite(batch(job.first, index), job.first, index, 0.0)
            for index in (share.indices if job.poison is not None else ())
        ]
    _fill_new_memory(False)
    torch.save(result, folder / f"{job.name}.{rank}.pt")


def _fill_new_memory(junk: bool) -> None:
    """Whether memory that was never written holds NaN, as memory that was freed may hold anything."""
    torch.use_deterministic_algorithms(junk, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = junk  # type: ignore[attr-defined]


def _add_unused(method: Any) -> None:
    head, forward = method.network.head, method.forward
    head.at_times, head.never = nn.Parameter(torch.full((3,), -0.0)), nn.Parameter(torch.ones(3))

    def with_at_times(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logs = forward(batch)
        number = int(batch["position"][0]) // MICRO
        return (loss if number % 3 == 1 else loss + (head.at_times * number).sin().sum()), logs

    method.forward = with_at_times


@contextmanager
def _infinite(method: nn.Module) -> Iterator[None]:
    """An image that overflows somewhere in the network."""
    hook = method.loss.register_forward_hook(lambda module, given, loss: loss * float("inf"))
    yield
    hook.remove()


def main() -> None:
    """Import everything once, and fork the ranks."""
    import masksup.engine.build
    import masksup.engine.step
    import masksup.runtime.checkpoint  # noqa: F401
    from masksup.engine.parallel.zero_settings import import_deepspeed

    import_deepspeed(torch.device("cpu"))
    folder, world = Path(sys.argv[1]), int(sys.argv[2])
    _end_with_parent()
    for rank in range(world):
        if os.fork() == 0:
            _be_rank(folder, rank, world)
    for _ in range(world):
        if os.wait()[1]:
            sys.exit(1)  # the others may wait for the one that failed; they end with this process


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the test, however that ends


def _be_rank(folder: Path, rank: int, world: int) -> NoReturn:
    status = 1
    try:
        _end_with_parent()
        out = os.open(folder / f"rank{rank}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        _work(folder, rank, world)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _work(folder: Path, rank: int, world: int) -> None:
    faulthandler.dump_traceback_later(1.5 * DEADLINE - 20, exit=True)  # a hang then says where
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world)
    for spec in json.loads((folder / "jobs.json").read_text()):
        _run(Job(**spec), folder, rank, world)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
