"""The micro-batches of a run, step for step, and what was broken in them."""

from collections.abc import Iterator

from torch import Tensor

from masksup.data.loader import train_loader, workers_of
from masksup.data.split import train_dataset
from masksup.engine.feature_batches import feature_batches
from masksup.training.run import Run


def micro_batches(run: Run) -> Iterator[list[dict[str, Tensor]]]:
    """This rank's of each step that is left: of images, or of features where the backbone is frozen."""
    config, part, start, place = run.config, run.source.train, run.progress.step, run.group.place
    pinned = run.device.type == "cuda"  # copied to a GPU while it computes
    if run.features:
        return feature_batches(run.features["train"], part, run.plan, start, config, place, pin_memory=pinned)
    return train_loader(
        train_dataset(config, part, run.plan), start, workers_of(config.data), place,
        prefetch=config.data.prefetch, pin_memory=pinned, kind=config.data.loader,
    )  # fmt: skip


def note_broken(run: Run, step_batches: list[dict[str, Tensor]]) -> None:
    for batch in step_batches:
        if "broken" in batch:  # features of a frozen backbone are of readable images
            run.broken["train"].note(batch["broken"], batch["sample"])
