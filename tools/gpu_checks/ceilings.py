"""What the device can do at best: products, copies, and the ways to main memory."""

from collections.abc import Callable, Iterator

import torch

from tools.gpu_checks.results import Row
from tools.gpu_checks.setting import Setting, now

BF16, FP32, TF32 = "bf16 products", "fp32 products", "tf32 products"
COPIES = (
    "copy on the device", "copy to the device, pinned", "copy to main memory, pinned", "copy to the device, pageable",
    "copy to main memory, pageable",
)  # fmt: skip


def run(setting: Setting) -> Iterator[Row]:
    side = 256 if setting.tiny else 8192
    x = torch.randn(side, side, device=setting.device)
    for what, allowed, values, repeats in ((BF16, True, x.bfloat16(), 20), (TF32, True, x, 10), (FP32, False, x, 5)):
        torch.backends.cuda.matmul.allow_tf32 = allowed
        seconds = _seconds(lambda v=values: v @ v, repeats)  # type: ignore[misc]
        yield {"what": what, "tflops": 2 * side**3 / seconds / 1e12}
    yield from _copies(setting)


def _copies(setting: Setting) -> Iterator[Row]:
    length = 1 << (20 if setting.tiny else 30)
    here = torch.empty(length, dtype=torch.uint8, device=setting.device)
    there = torch.empty_like(here)
    yield {"what": "copy on the device", "gb_s": 2 * length / _seconds(lambda: there.copy_(here), 5) / 1e9}
    part, hosts = here[: length // 4], {"pageable": torch.empty(length // 4, dtype=torch.uint8)}
    if not setting.tiny:
        hosts["pinned"] = torch.empty(length // 4, dtype=torch.uint8, pin_memory=True)
    for kind, host in hosts.items():
        pairs = {"to the device": (part, host), "to main memory": (host, part)}
        for way, (to, source) in pairs.items():
            seconds = _seconds(lambda to=to, source=source: to.copy_(source, non_blocking=True), 3)  # type: ignore[misc]
            yield {"what": f"copy {way}, {kind}", "gb_s": length / 4 / seconds / 1e9}


def _seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    began = now()
    for _ in range(repeats):
        work()
    return (now() - began) / repeats
