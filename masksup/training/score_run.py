"""The scores of a run: after an epoch, and at its end with the best and the last weights."""

import shutil
from collections.abc import Iterator
from typing import Any

from masksup.base.files import write_json
from masksup.base.fitted import fitted
from masksup.base.log import console, log
from masksup.base.next_steps import tell_next
from masksup.base.words import counted, figure
from masksup.data.masks import FixedMasks, Level, evaluation_masks
from masksup.data.split import Part
from masksup.engine.ema import copy_values
from masksup.engine.state import load_network, scored_state
from masksup.evaluation.blocks import Block, feature_blocks, image_blocks, masked_blocks
from masksup.evaluation.collect import Collector, Counted, Counts, Outputs, Pairs
from masksup.evaluation.forward import Predictor, collect, keeps_pairs
from masksup.evaluation.kept import Unfinished, outputs_key
from masksup.evaluation.scores import evaluate
from masksup.metrics.tables import headline, tables
from masksup.runtime.checkpoint import Damaged, checkpoint_sha256, read_checkpoint
from masksup.runtime.metrics_rows import read_rows
from masksup.runtime.progress import duration
from masksup.training import patience
from masksup.training.adapted import as_scored
from masksup.training.plot import plot_curves, plot_precision_recall
from masksup.training.run import Run
from masksup.training.score_log import CURVES, contact_sheet_of, known, record_scores
from masksup.training.what_next import after_training

WAITED_MUCH = 0.05  # the share of the training that a step waited for images


def score_epoch(run: Run) -> bool:
    """Score the evaluation part, write it down, and say whether it is the best so far. Raises Stopped."""
    part, progress = run.source.eval, run.progress
    assert part is not None
    _take_weights(run)
    last = progress.step == run.plan.total_steps
    unfinished = _unfinished(run, part, to_the_end=last)
    outputs = _outputs(run, "eval", part, unfinished)
    run.group.beat_without_limit("computing scores")
    improved = _judge(run, outputs, part) if outputs is not None else False
    told: tuple[bool, dict[str, Any] | None, list[dict[str, Any]]] = (improved, progress.best, progress.history)
    improved, progress.best, progress.history = run.group.broadcast(told)
    if not last:  # the end of the run scores the same weights on this part
        unfinished.discard()
    return bool(improved)


def _judge(run: Run, outputs: Outputs | Counted, part: Part) -> bool:
    """On rank 0: the scores of the epoch, and whether they are the best so far."""
    progress = run.progress
    summary = evaluate(outputs, part, run.config)
    epoch = run.plan.epoch_shown(progress.step)
    progress.best = run.saver.settled(progress.best)
    mean_ap = summary["mAP"]
    improved = mean_ap is not None and (progress.best is None or mean_ap > progress.best["mAP"])
    progress.history.append({"step": progress.step, "epoch": epoch, "mAP": mean_ap})
    if improved:
        name = run.saver.name(progress.step)
        progress.best = {"step": progress.step, "epoch": epoch, "mAP": mean_ap, "checkpoint": name}
    log.info(f"epoch {epoch:.3g}: {_short(progress.loss, summary)}{'  best so far' if improved else ''}")
    record_scores(run, summary, outputs, part, epoch)
    last = progress.step == run.plan.total_steps
    if run.config.log.images and (improved or last):
        shown, step = outputs.head if isinstance(outputs, Counted) else outputs, progress.step
        threshold = summary["protocol"]["threshold"]
        run.record.draw(
            lambda: run.record.image("predictions", step, contact_sheet_of(run, shown, part, threshold)),
            0 if last else run.config.log.picture_minutes,
        )
    return improved


def _short(loss: float | None, summary: dict[str, Any]) -> str:
    """Loss and scores of an epoch; by which protocol the end of the run says once."""
    scores = {name: summary[name] for name in ("mAP", "CF1", "OF1")}
    known = [f"{name} {value:.2f}" for name, value in scores.items() if value is not None]
    return "  ".join([*([] if loss is None else [f"loss {loss:.4f}"]), *(known or ["mAP none"])])


def finish(run: Run) -> None:
    """Score the best and the last weights, write `result.json`, print the final tables. Collective. Raises Stopped."""
    progress, result = run.progress, _facts(run)
    progress.best = run.group.broadcast(run.saver.settled(progress.best))
    _take_weights(run)
    last = _final_scores(run, run.saver.name(progress.step))
    result["last"] = {"step": progress.step, "epoch": run.plan.epoch_shown(progress.step), **last}
    if progress.best is not None:
        same = progress.best["checkpoint"] == run.saver.name(progress.step)
        problem = None if same else _take_checkpoint(run, progress.best["checkpoint"])
        if problem is None:
            scores = last if same else _final_scores(run, progress.best["checkpoint"])
            result["best"] = {**progress.best, **scores}
        else:
            log.error(f"ALARM: the best checkpoint is lost, so only the last weights are scored: {problem}")
            run.record.event(progress.step, f"best lost: {problem}")
            result["best_lost"] = {**progress.best, "why": problem}
    if run.group.first:
        _conclude(run, result)
    run.group.broadcast(None)  # the others leave when this is done, however long it takes


def _conclude(run: Run, result: dict[str, Any]) -> None:
    """On rank 0: print the tables, and write down what the run came to."""
    progress = run.progress
    _print_scores(result)
    if "best" in result:
        scores = {"mAP": progress.best["mAP"] if progress.best else 0.0}
        run.record.scalars("best", progress.step, result["best"]["epoch"], scores)
    final = _final(result)
    for level, masked in (final or {}).get("masked", {}).items():
        run.record.scalars(f"masked_{level}", progress.step, run.plan.epoch_shown(progress.step), known(masked, CURVES))
    plot_curves(run)
    told = result["stopped_early"]
    run.record.event(progress.step, f"finished: {patience.line(told)}" if told else "finished")
    write_json(run.folder.result, result)
    shutil.rmtree(run.folder.unfinished, ignore_errors=True)
    log.info(
        f"finished {counted(progress.step, 'step')} in {duration(progress.seconds)} "
        f"({figure(result['images_per_second'])} images/s with scoring); result: {run.folder.result}"
    )
    folder, waited = run.folder.path, _share_waited(run)
    slow = [(("masksup", "doctor", folder), f"waiting for data took {waited:.0%} of the training: what to change")]
    tell_next(*after_training(folder, result), *(slow if waited > WAITED_MUCH and not run.config.model.frozen else ()))


def _share_waited(run: Run) -> float:
    """The share of the training, all starts of it, in which a step waited for its images."""
    run.record.flush()
    rows = [row for row in read_rows(run.record.path) if row["kind"] == "train" and row.get("data_wait_share")]
    lasted = sum(row["data_wait_seconds"] / row["data_wait_share"] for row in rows)
    return sum(row["data_wait_seconds"] for row in rows) / lasted if rows else 0.0


def _print_scores(result: dict[str, Any]) -> None:
    which = _chosen(result)
    both = which == "best" and result["best"]["step"] == result["last"]["step"]
    for name in ("eval", "test"):
        for kind in ("last",) if both or which == "last" else ("best", "last"):
            if name in result[kind]:
                title = "best and last" if both else kind
                log.info(f"{name}, {title} epoch ({result[kind]['epoch']:.3g}): {headline(result[kind][name])}")
    final = _final(result)
    if final is not None and final["OR"] == 0:
        threshold = final["protocol"]["threshold"]
        log.warning(
            f"no label is found at the threshold {threshold:g}, so CP to OF1 say nothing: masksup calibrate fits "
            "thresholds to the scores"
        )
    if final is not None:
        for table in tables(final, console.width):
            console.print(fitted(table, console.width), soft_wrap=False)


def _chosen(result: dict[str, Any]) -> str:
    return "best" if "best" in result else "last"


def _final(result: dict[str, Any]) -> dict[str, Any] | None:
    """The summary that stands for the run: of the best weights, on the test part where there is one."""
    scores = result[_chosen(result)]
    summary: dict[str, Any] | None = scores.get("test") or scores.get("eval")
    return summary


def _facts(run: Run) -> dict[str, Any]:
    progress = run.progress
    return {
        "run": run.folder.path.name, "data": run.source.train.title, "note": run.source.train.index.note,
        "seed": run.config.seed, "steps": progress.step, "seconds": progress.seconds,
        "images_per_second": run.plan.samples_before(progress.step) / progress.seconds,
        "device": str(run.device), "ranks": run.group.world, "threads": run.threads,
        "starts": run.folder.start, "changed": progress.changed,
        "skipped_steps": int(run.stepper.engine.skipped.item()), "history": progress.history,
        "stopped_early": patience.stopped_early(run),
        **({} if progress.solved is None else {"solved": progress.solved}),
    }  # fmt: skip


def _final_scores(run: Run, checkpoint: str) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    folder = run.folder.checkpoints / checkpoint
    facts = {
        "weights": run.config.eval_weights, "checkpoint": f"{run.folder.path.name}/{checkpoint}",
        "checkpoint_sha256": checkpoint_sha256(folder) if folder.exists() else None,
    }  # fmt: skip
    for name, part in (("eval", run.source.eval), ("test", run.source.test)):
        if part is None:
            continue
        scores[name] = _scored(run, name, part, None, facts)
        scores[name]["masked"] = {}
        for level in run.config.eval.masked:
            masks = _masks(run, part, level)
            scores[name]["masked"][level] = _scored(run, name, part, masks, {**facts, "masked": masks.protocol})
    return scores


def _scored(run: Run, name: str, part: Part, masks: FixedMasks | None, facts: dict[str, Any]) -> dict[str, Any]:
    """Scores with their protocol on rank 0, which alone has the outputs; empty elsewhere."""
    outputs = _outputs(run, name, part, _unfinished(run, part, masks, to_the_end=True), masks)
    run.group.beat_without_limit("computing scores")
    if outputs is None:
        return {}
    summary = evaluate(outputs, part, run.config, resamples=run.config.eval.bootstrap)
    summary["protocol"] |= facts
    if name == "eval" and masks is None:  # of the best weights in the end, which are scored last
        plot_precision_recall(run, summary, outputs, part)
    return summary


def _masks(run: Run, part: Part, level: Level) -> FixedMasks:
    return evaluation_masks(level, run.config.model.size, part.ids)


def _take_weights(run: Run) -> None:
    """Put the weights that are scored (live, or their moving average) into the copy."""
    ema = run.ema if run.config.eval_weights == "ema" else None
    state = as_scored(run, scored_state(run.stepper, ema, run.group))
    copy_values(state, run.scored_method.network.state_dict())


def _take_checkpoint(run: Run, name: str) -> str | None:
    """The best weights, read by rank 0: other ranks may not see yet what was renamed a moment ago.

    What is wrong with the checkpoint, if it is gone or damaged; the weights are then as they were.
    """
    network, group = run.scored_method.network, run.group
    group.beat_without_limit("reading the best checkpoint")
    problem: str | None = None
    with group.together():
        if group.first:
            try:
                _read_into(run, name)
            except Damaged as error:
                problem = str(error)
    problem = group.broadcast(problem)
    assert problem is None or isinstance(problem, str)
    for value in network.state_dict().values() if problem is None else ():
        value.copy_(group.broadcast(value.cpu() if group.first else None))
    return problem


def _read_into(run: Run, name: str) -> None:
    state = read_checkpoint(run.folder.checkpoints / name)
    tensors = state.part("model")
    if run.config.eval_weights == "ema":
        tensors |= state.part("ema")
    load_network(run.scored_method.network, as_scored(run, tensors), name)


def _unfinished(run: Run, part: Part, masks: FixedMasks | None = None, *, to_the_end: bool = False) -> Unfinished:
    """Where an evaluation of the weights that are to be scored now is kept."""
    config = run.config
    counted = not keeps_pairs(part, config)

    def key() -> str:
        network = run.scored_method.network
        return outputs_key(network, config, part, masks, counted, run.device, run.dtype)

    return Unfinished(
        run.folder.unfinished, key, run.group, run.vote, config.checkpoint.every_minutes, to_the_end=to_the_end
    )


def _outputs(
    run: Run, name: str, part: Part, unfinished: Unfinished, masks: FixedMasks | None = None
) -> Outputs | Counted | None:
    """Of the weights in the copy; under masks always from images, since holes are in no kept feature."""
    config, method = run.config, run.scored_method
    from_features = run.features and masks is None

    def blocks(numbers: range) -> Iterator[Block]:
        if from_features:
            return feature_blocks(run.features[name], part, config, numbers)
        images = image_blocks(part, config, numbers, run.device)
        return images if masks is None else masked_blocks(images, masks, method.network.mean, numbers)

    predict = method.network.head if from_features else method.predict
    predictor = Predictor(predict, config, run.device, run.dtype)
    collector: Collector[Outputs | Counted] = Pairs(part, config) if keeps_pairs(part, config) else Counts(part, config)
    return collect(collector, predictor, blocks, run.group, broken=run.broken[name], unfinished=unfinished)
