"""What DDP sends under `parallel.sum: ring`: each gradient once a step, for any micro-batches, out of the buckets."""

import json
from pathlib import Path

import pytest
from ranks import Launcher

from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint

COUNT = """
import json, sys
import torch, torch.distributed as dist
from masksup.engine.parallel.replicas import Replicas

out, rank = {folder!r}, __import__("os").environ["RANK"]
sent, spans, all_reduce, step = [], [], dist.all_reduce, Replicas.step

def counted(tensor, *args, **kwargs):
    if kwargs.get("async_op") and sys._getframe(1).f_code.co_name.startswith("_sum"):
        sent.append(tensor.numel() * tensor.element_size())
        spans.append((tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()))
    return all_reduce(tensor, *args, **kwargs)

def seen(self):
    gradients = [p.grad for p in self.method.parameters() if p.grad is not None]
    inside = sum(any(a <= g.data_ptr() < b for a, b in spans) for g in gradients)
    with open(f"{{out}}/sums.{{rank}}", "a") as file:
        file.write(json.dumps([sum(sent), len(sent), inside, len(gradients)]) + "\\n")
    sent.clear()
    spans.clear()
    return step(self)

dist.all_reduce, Replicas.step = counted, seen
"""


@pytest.mark.parametrize("compress", ["none", "bf16"])
def test_each_gradient_is_summed_once_a_step(compress: str, job: Launcher, write_config, tmp_path: Path) -> None:
    """Four micro-batches a step on each of two ranks."""
    config = write_config(
        batch={"global": 16, "micro": 2}, data__eval=None, parallel__compress=compress, parallel__sum="ring"
    )
    job.to_the_end(2, config, tmp_path / "run", probe=COUNT.format(folder=str(tmp_path)))
    saved = read_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[0])
    weights = sum(value.numel() for name, value in saved.part("optim").items() if name.startswith("exp_avg/"))
    for rank in range(2):
        _, *steps = [json.loads(line) for line in (tmp_path / f"sums.{rank}").read_text().splitlines()]
        assert len(steps) >= 4, "the first step has the sums of the warm-up as well"
        for size, buckets, inside, gradients in steps:
            assert size == weights * (2 if compress == "bf16" else 4)
            assert buckets > 1
            assert inside == (0 if compress == "bf16" else gradients), "a gradient is a view of what was sent"
