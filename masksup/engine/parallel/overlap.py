"""Gradients cross the network while the backward pass of a rank's last micro-batch goes on."""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from masksup.engine.parallel.buckets import Bucket
from masksup.engine.parallel.exchange import tree_sum
from masksup.engine.parallel.tree import Fold, Node


class Overlap:
    """The sums of a step's buckets. Each begins when its gradients are there, and none before the one in front of it.

    All ranks therefore meet in the same order, also one that has no micro-batch, or a parameter without a gradient.
    They meet on a thread of their own, on a GPU in a stream of its own, so that the backward pass does not wait.
    """

    def __init__(self, buckets: list[Bucket]) -> None:
        self._buckets = buckets
        self._parameters = {at: p for bucket in buckets for at, p in bucket.parameters.items()}
        for number, bucket in enumerate(buckets):
            for parameter in bucket.parameters.values():
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, number))  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(1, "gradients")
        device = buckets[0].device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._leaf: Node | None = None
        self._failed: BaseException | None = None
        self._forget()

    def _forget(self) -> None:
        self._sums: list[Future[Tensor]] = []
        self._had = dict.fromkeys(self._parameters, False)
        self._missing = [len(bucket.parameters) for bucket in self._buckets]

    def await_last(self, fold: Fold, index: int) -> None:
        """The next backward pass is that of the rank's last micro-batch, which is number `index` of the step."""
        self._fold, self._leaf = fold, (index, index + 1)

    def _arrived(self, number: int, parameter: Tensor) -> None:  # noqa: ARG002  torch calls it so
        """A gradient of a bucket is there."""
        if self._leaf is None:
            return
        if self._failed is not None:
            raise self._failed
        if number < len(self._sums):
            raise RuntimeError("a parameter had a second gradient in one backward pass, whose first was already sent")
        self._missing[number] -= 1
        while len(self._sums) < len(self._buckets) and self._missing[len(self._sums)] == 0:
            self._begin_next()

    def _begin_next(self) -> None:
        """Add what this rank has of the next bucket, and let the ranks meet."""
        bucket = self._buckets[len(self._sums)]
        fold = self._fold.of(list(bucket.parameters))
        if self._leaf is not None:
            fold.add(self._leaf, [parameter.grad for parameter in bucket.parameters.values()])
        for parameter in bucket.parameters.values():
            parameter.grad = None
        for _, gradients in fold.nodes:
            for at, gradient in zip(bucket.parameters, gradients, strict=True):
                self._had[at] |= gradient is not None
        parts = [bucket.flat(gradients) for _, gradients in fold.nodes]
        self._fold.forget(list(bucket.parameters))
        ready = torch.cuda.current_stream(bucket.device).record_event() if self._stream is not None else None
        self._sums.append(self._thread.submit(self._sum, parts, bucket, fold.leaves, ready))

    def _sum(self, parts: list[Tensor], bucket: Bucket, leaves: int, ready: torch.cuda.Event | None) -> Tensor:
        if self._failed is not None:  # the ranks no longer meet at the same bucket
            raise self._failed
        try:
            return self._met(parts, bucket, leaves, ready)
        except BaseException as error:
            self._failed = error
            raise

    def _met(self, parts: list[Tensor], bucket: Bucket, leaves: int, ready: torch.cuda.Event | None) -> Tensor:
        if self._stream is None or ready is None:
            return tree_sum(parts, bucket.empty(), leaves)
        with torch.cuda.device(bucket.device), torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            for part in parts:
                part.record_stream(self._stream)
            return tree_sum(parts, bucket.empty(), leaves)

    def finish(self, fold: Fold) -> tuple[list[Tensor], list[bool]]:
        """The gradient of each parameter over all ranks, and whether this rank had one. Collective."""
        self._fold = fold
        while len(self._sums) < len(self._buckets):
            self._begin_next()
        summed: dict[int, Tensor] = {}
        for bucket, waiting in zip(self._buckets, self._sums, strict=True):
            flat = waiting.result()
            if self._stream is not None:
                torch.cuda.current_stream(bucket.device).wait_stream(self._stream)
                flat.record_stream(torch.cuda.current_stream(bucket.device))
            summed.update(bucket.gradients(flat))
        had, self._leaf = self._had, None
        self._forget()
        order = sorted(summed)
        return [summed[at] for at in order], [had[at] for at in order]
