"""A run whose gradients stay infinite or NaN ends here, with the ranks and samples they come from (R8)."""

from shlex import quote
from typing import NoReturn

from torch import Tensor

from masksup.errors import ToldElsewhere, UserError
from masksup.runtime.rendezvous import named
from masksup.training.run import Run


def check_gradients(run: Run, micro_batches: list[dict[str, Tensor]]) -> None:
    """UserError, or ToldElsewhere, where too many steps in a row were skipped; as `raise_bad_gradient`."""
    # On a GPU reading the counter would make it wait, so there it is read with the log lines only.
    step, limit = run.progress.step, run.config.optim.max_skipped
    if run.device.type == "cuda" and not run.config.log.due(step, run.plan.total_steps):
        return
    if int(run.stepper.engine.skipped_in_row) >= limit:
        raise_bad_gradient(run, micro_batches)


def raise_bad_gradient(run: Run, micro_batches: list[dict[str, Tensor]]) -> NoReturn:
    """UserError naming rank, step and sample ids. Collective; `micro_batches` are this rank's of the last step.

    That step was not applied, so going through each micro-batch again, alone, shows which are to blame.
    """
    run.group.beat("looking for the samples behind a bad gradient")
    step, index = run.progress.step - 1, run.source.train.index
    share = run.plan.share(step, run.group.place.rank, run.group.world)
    progress = step / run.plan.total_steps
    bad: list[str] = []
    every: list[str] = []
    for number, batch in zip(share.indices, micro_batches, strict=True):
        ids = [index.id(int(sample)) for sample in batch["sample"]]
        every += ids
        if not share.weightless and not run.stepper.gradient_is_finite(batch, step, number, progress):
            bad += ids
    found = run.group.all(bad)
    guilty = [rank for rank, ids in enumerate(found) if ids]
    if not guilty:  # each is finite, their sum is not
        found = run.group.all(every)
        guilty = list(range(run.group.world))
    shown = [sample for rank in guilty for sample in found[rank]]
    text = (
        f"optim.lr: {run.config.optim.max_skipped} steps in a row up to step {run.progress.step} had a gradient that "
        f"is not finite, on {named(guilty)}; last samples: {', '.join(shown[:8])}{', ...' if len(shown) > 8 else ''}; "
        f"none of them was applied; masksup replay {quote(str(run.folder.path))} --step {run.progress.step} shows the "
        "last"
    )
    raise UserError(text) if run.group.first else ToldElsewhere(text)
