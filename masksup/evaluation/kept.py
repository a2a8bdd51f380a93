"""What an evaluation that was cut off has done, kept on disk for the next one of the same weights on the same samples.

Blocks are dealt out in their order, and all ranks stop between the same two rounds: what is done is always the first
so many blocks, whoever did them. So any number of ranks, with any engine, goes on from there.
"""

import functools
import hashlib
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import masksup
from masksup.base.files import json_sha256
from masksup.base.log import log
from masksup.base.signals import stop_requested
from masksup.config.load import dump
from masksup.config.schema import Config
from masksup.data.masks import FixedMasks
from masksup.data.split import Part
from masksup.engine.state import hash_of
from masksup.errors import JobError, UserError
from masksup.runtime.checkpoint import State, read_checkpoint, write_checkpoint
from masksup.runtime.ranks import Group, Vote, wish


class Stopped(Exception):
    """A request to stop arrived between two blocks. What was done until then is kept where the caller asked for it."""


@dataclass(frozen=True)
class Done:
    """Outputs of the first `blocks` blocks of a part. `broken`: samples found broken so far, by number in the index."""

    blocks: int
    outputs: dict[str, Tensor]
    broken: list[int]


class Unfinished:
    """The place of one evaluation among those in `folder`, which rank 0 reads and writes.

    key: what its outputs depend on (see `outputs_key`); asked for only once something is there or is to be kept.
    vote: by which the ranks agree to stop; the caller drains it.
    minutes: keep what is done so often, for a process that is killed without a signal.
    to_the_end: keep all outputs too, until `discard`, because work follows before the scores are safe.
    """

    def __init__(
        self, folder: Path, key: Callable[[], str], group: Group, vote: Vote, minutes: float, to_the_end: bool = False
    ) -> None:
        self.folder, self._group, self._vote = folder, group, vote
        self._key = functools.cache(key)  # it reads all weights, which stay as they are during an evaluation
        self._seconds, self.to_the_end = 60 * minutes, to_the_end
        self._kept_at = time.monotonic()
        self._mine: list[Path] = []
        self.refused = False
        """On rank 0: the place could not be written to."""

    def asked(self) -> int:
        """What all ranks wish before the next block: above SAVE to stop, SAVE to keep what is done. Collective."""
        due = self._group.first and time.monotonic() - self._kept_at > self._seconds
        if due:
            self._kept_at = time.monotonic()
        return self._vote.cast(wish(stop_requested(), save=due))

    def find(self) -> Done | None:
        """On rank 0: what an earlier evaluation kept, verified. What is damaged is removed, and said."""
        if not any(self.folder.glob("*-*")):
            return None
        key = self._key()
        _remove(list(self.folder.glob(f".partial-{key}-*")))  # of a process that was killed while it wrote
        self._mine = sorted(self.folder.glob(f"{key}-*"), reverse=True)  # several if one was killed before it removed
        for path in self._mine:
            try:
                state = read_checkpoint(path)
                return Done(int(state.meta["blocks"]), state.tensors, list(state.meta["broken"]))
            except (UserError, JobError, KeyError) as error:
                log.warning(f"{error}; these outputs are computed again")
                shutil.rmtree(path, ignore_errors=True)
        return None

    def keep(self, done: Done, total: int) -> None:
        """On rank 0: write it down, in the place of what was kept before. A place that refuses is told, no more."""
        name = f"{self._key()}-{done.blocks:012d}"
        outputs = {what: value.contiguous() for what, value in done.outputs.items()}
        try:
            path = self.folder / name
            if not path.is_dir():
                write_checkpoint(self.folder, name, State(outputs, {"blocks": done.blocks, "broken": done.broken}))
        except OSError as error:
            self.refused = True
            if done.blocks < total:
                log.warning(f"{self.folder}: the outputs of {done.blocks} of {total} blocks could not be kept: {error}")
            return
        before, self._mine = self._mine, [path]
        _remove(before, but=path)
        if done.blocks < total:
            log.info(f"evaluation: the outputs of {done.blocks} of {total} blocks are kept in {self.folder}")

    def discard(self) -> None:
        """Its scores are safe: remove what was kept, and the folder where nothing else is in it."""
        if self._mine:
            _remove(self._mine)
            self._mine.clear()
            with suppress(OSError):
                self.folder.rmdir()


def _remove(paths: list[Path], but: Path | None = None) -> None:
    for path in paths:
        if path != but:
            shutil.rmtree(path, ignore_errors=True)


def outputs_key(
    network: nn.Module, config: Config, part: Part, masks: FixedMasks | None, counted: bool, device: torch.device,
    dtype: torch.dtype,
) -> str:  # fmt: skip
    """A hash of what the outputs for a part depend on, but for the number of ranks and threads.

    Of the configuration that is everything but `parallel`: rather too much, so that nothing is mixed.
    """
    chosen = None if part.chosen is None else hashlib.sha256(part.chosen.tobytes()).hexdigest()
    settings = {key: value for key, value in dump(config).items() if key != "parallel"}
    facts = [
        hash_of(network), settings, part.index.hash, chosen, masks and masks.protocol, counted, device.type, str(dtype),
        torch.__version__, masksup.__version__,
    ]  # fmt: skip
    return json_sha256(facts)[:16]
