"""Which decisions belong to a trained model: those kept with it, if they were fitted for these very weights."""

from masksup.base.log import log
from masksup.decisions.decisions import FILE, Decisions, default_decisions, read_decisions
from masksup.errors import UserError
from masksup.metrics.summary import decision_threshold
from masksup.saved.open import Trained


def decisions_for(trained: Trained) -> Decisions:
    """The decisions packed with a model or kept in its run folder, else the sigmoid and the run's own threshold.

    Decisions that were fitted for other weights (another checkpoint, live instead of averaged) are not used, which a
    warning says. UserError where the file is broken or of other classes.
    """
    kept = trained.packed
    if kept is None and trained.run is not None:
        kept = read_decisions(trained.run)
    usual = default_decisions(trained.classes, default_threshold(trained))
    if kept is None:
        return usual
    where = trained.run / FILE if trained.run is not None else FILE
    if kept.classes != trained.classes:
        raise UserError(f"{where}: found other classes than those of {trained.checkpoint}; run masksup calibrate again")
    if not kept.fits(trained.sha256, trained.weights):
        assert kept.fitted is not None
        log.warning(
            f"{where}: fitted for step {kept.fitted.step} ({kept.fitted.weights} weights), but these are step "
            f"{trained.step} ({trained.weights}): not used, the threshold is {usual.thresholds[0]:g}"
        )
        return usual
    return kept


def default_threshold(trained: Trained) -> float:
    """The probability from which the run's own scores count a class as predicted."""
    rules = trained.config.eval
    return decision_threshold(rules.threshold, rules.compat)


def told(decisions: Decisions, threshold: float | None) -> Decisions:
    """`decisions` as `--threshold` leaves them; a line says what decides, where that is not the default."""
    if threshold is None:
        line = decisions.line()
        if line is not None:
            log.info(line)
        return decisions
    if decisions.fitted is not None:
        log.info(f"--threshold {threshold:g}: takes the place of the thresholds that were fitted ({decisions.aim})")
    return decisions.with_threshold(threshold)
