"""What is likely to disappoint in a run that is about to begin: one line each, with what to do."""

from collections.abc import Iterator

from masksup.base.words import counted, listed
from masksup.training.run import Run

FEW_STEPS = 50  # of an optimiser, in which even the rate of a schedule hardly moves a network
FEW_POSITIVES = 5  # of a class: as many as `docs/results.md` asks of a class to speak of it


def cautions(run: Run) -> Iterator[str]:
    """Lines about the data and the plan; none where nothing is odd."""
    config, part, classes = run.config, run.source.train, run.source.classes
    positives = dict(zip(classes, part.count(1).tolist()))
    empty = [name for name, count in positives.items() if count == 0]
    few = [f"{name} ({count})" for name, count in positives.items() if 0 < count < FEW_POSITIVES]
    if empty:
        yield f"classes without a positive training sample, which cannot be learnt: {listed(empty)}"
    if few:
        yield (
            f"classes with fewer than {FEW_POSITIVES} positive training samples, which are hardly learnt: "
            f"{listed(few)}; more images of them help most"
        )
    if config.optim.name == "lbfgs":
        return
    if config.batch.global_ > len(part):
        yield (
            f"batch.global: {config.batch.global_} is more than the {counted(len(part), 'training sample')}, so that a "
            f"step sees some twice; expected at most {len(part)}"
        )
    if run.plan.total_steps < FEW_STEPS:
        yield (
            f"the run has only {counted(run.plan.total_steps, 'step')}; more epochs or a smaller batch.global give more"
        )
