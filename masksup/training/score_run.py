"""The scores of a run: after an epoch, and at its end with the best and the last weights."""

import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from masksup.base.files import write_json
from masksup.base.log import console, log
from masksup.base.words import counted, figure
from masksup.data.decode import decode_bytes
from masksup.data.masks import FixedMasks, Level, evaluation_masks
from masksup.data.split import Part
from masksup.engine.ema import copy_values
from masksup.engine.state import load_network, scored_state
from masksup.evaluation.blocks import Block, feature_blocks, image_blocks, masked_blocks
from masksup.evaluation.collect import Collector, Counted, Counts, Outputs, Pairs
from masksup.evaluation.forward import Predictor, collect, keeps_pairs
from masksup.evaluation.kept import Unfinished, outputs_key
from masksup.evaluation.scores import evaluate
from masksup.metrics.histogram import pr_curve_of_counts
from masksup.metrics.precision_recall import pr_curve
from masksup.metrics.stratified import STRATUM_SCORES
from masksup.metrics.summary import THRESHOLD_SCORES
from masksup.metrics.tables import headline, tables
from masksup.output.pictures import contact_sheet, draw_prediction
from masksup.runtime.checkpoint import SUMS, Damaged, read_checkpoint
from masksup.runtime.progress import duration
from masksup.training import patience
from masksup.training.adapted import as_scored
from masksup.training.run import Run

_CURVES = ("mAP", *THRESHOLD_SCORES)


def score_epoch(run: Run) -> bool:
    """Score the evaluation part, write it down, and say whether it is the best so far. Raises Stopped."""
    part, at = run.source.eval, run.at
    assert part is not None
    _take_weights(run)
    last = at.step == run.plan.total_steps
    unfinished = _unfinished(run, part, to_the_end=last)
    outputs = _outputs(run, "eval", part, unfinished)
    run.group.beat_without_limit("computing scores")
    improved = _judge(run, outputs, part) if outputs is not None else False
    told: tuple[bool, dict[str, Any] | None, list[dict[str, Any]]] = (improved, at.best, at.history)
    improved, at.best, at.history = run.group.broadcast(told)
    if not last:  # the end of the run scores the same weights on this part
        unfinished.discard()
    return bool(improved)


def _judge(run: Run, outputs: Outputs | Counted, part: Part) -> bool:
    """On rank 0: the scores of the epoch, and whether they are the best so far."""
    at = run.at
    summary = evaluate(outputs, part, run.config)
    epoch = run.plan.epoch_of(at.step)
    at.best = run.saver.settled(at.best)
    mean_ap = summary["mAP"]
    improved = mean_ap is not None and (at.best is None or mean_ap > at.best["mAP"])
    at.history.append({"step": at.step, "epoch": epoch, "mAP": mean_ap})
    if improved:
        at.best = {"step": at.step, "epoch": epoch, "mAP": mean_ap, "checkpoint": run.saver.name(at.step)}
    every = run.config.eval.every_epochs
    ended = run.plan.epochs if at.step == run.plan.total_steps else (epoch + 1e-9) // every * every
    log.info(f"epoch {ended:g}: {headline(summary)}{'  best so far' if improved else ''}")
    _record(run, summary, outputs, part, epoch)
    last = at.step == run.plan.total_steps
    if run.config.log.images and (improved or last):
        shown, step = outputs.head if isinstance(outputs, Counted) else outputs, at.step
        threshold = summary["protocol"]["threshold"]
        run.record.draw(
            lambda: run.record.image("predictions", step, _sheet(run, shown, part, threshold)),
            0 if last else run.config.log.picture_minutes,
        )
    return improved


def finish(run: Run) -> None:
    """Score the best and the last weights, write `result.json`, print the final tables. Collective. Raises Stopped."""
    at, result = run.at, _facts(run)
    at.best = run.group.broadcast(run.saver.settled(at.best))
    _take_weights(run)
    last = _final_scores(run, run.saver.name(at.step))
    result["last"] = {"step": at.step, "epoch": run.plan.epoch_of(at.step), **last}
    if at.best is not None:
        same = at.best["checkpoint"] == run.saver.name(at.step)
        problem = None if same else _take_checkpoint(run, at.best["checkpoint"])
        if problem is None:
            scores = last if same else _final_scores(run, at.best["checkpoint"])
            result["best"] = {**at.best, **scores}
        else:
            log.error(f"ALARM: the best checkpoint is lost, so only the last weights are scored: {problem}")
            run.record.event(at.step, f"best lost: {problem}")
            result["best_lost"] = {**at.best, "why": problem}
    if run.group.first:
        _conclude(run, result)
    run.group.broadcast(None)  # the others leave when this is done, however long it takes


def _conclude(run: Run, result: dict[str, Any]) -> None:
    """On rank 0: print the tables, and write down what the run came to."""
    at = run.at
    _print_scores(result)
    if "best" in result:
        run.record.scalars("best", at.step, result["best"]["epoch"], {"mAP": at.best["mAP"] if at.best else 0.0})
    final = _final(result)
    for level, masked in (final or {}).get("masked", {}).items():
        run.record.scalars(f"masked_{level}", at.step, run.plan.epoch_of(at.step), _known(masked, _CURVES))
    told = result["stopped_early"]
    run.record.event(at.step, f"finished: {patience.line(told)}" if told else "finished")
    write_json(run.folder.result, result)
    shutil.rmtree(run.folder.unfinished, ignore_errors=True)
    log.info(
        f"finished {counted(at.step, 'step')} in {duration(at.seconds)} "
        f"({figure(result['images_per_second'])} images/s with scoring); result: {run.folder.result}"
    )


def _print_scores(result: dict[str, Any]) -> None:
    which = _chosen(result)
    both = which == "best" and result["best"]["step"] == result["last"]["step"]
    for name in ("eval", "test"):
        for kind in ("last",) if both or which == "last" else ("best", "last"):
            if name in result[kind]:
                title = "best and last" if both else kind
                log.info(f"{name}, {title} epoch ({result[kind]['epoch']:.3g}): {headline(result[kind][name])}")
    final = _final(result)
    if final is not None:
        for table in tables(final, console.width):
            console.print(table)


def _chosen(result: dict[str, Any]) -> str:
    return "best" if "best" in result else "last"


def _final(result: dict[str, Any]) -> dict[str, Any] | None:
    """The summary that stands for the run: of the best weights, on the test part where there is one."""
    scores = result[_chosen(result)]
    summary: dict[str, Any] | None = scores.get("test") or scores.get("eval")
    return summary


def _facts(run: Run) -> dict[str, Any]:
    at = run.at
    images = run.plan.samples_before(at.step)
    return {
        "run": run.folder.path.name, "data": run.source.train.title, "note": run.source.train.index.note,
        "seed": run.config.seed, "steps": at.step, "seconds": at.seconds, "images_per_second": images / at.seconds,
        "device": str(run.stepper.device), "ranks": run.group.world, "threads": run.threads,
        "attempts": run.folder.attempt, "changed": at.changed,
        "skipped_steps": int(run.stepper.engine.skipped.item()), "history": at.history,
        "stopped_early": patience.stopped_early(run),
        **({} if at.solved is None else {"solved": at.solved}),
    }  # fmt: skip


def _final_scores(run: Run, checkpoint: str) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    sums = run.folder.checkpoints / checkpoint / SUMS
    facts = {
        "weights": run.config.eval_weights, "checkpoint": f"{run.folder.path.name}/{checkpoint}",
        "checkpoint_sha256": sums.read_text(encoding="ascii")[:64] if sums.exists() else None,
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
    return summary


def _masks(run: Run, part: Part, level: Level) -> FixedMasks:
    return evaluation_masks(level, run.config.model.size, [part.index.id(int(sample)) for sample in part.samples])


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
    config, stepper = run.config, run.stepper
    counted = not keeps_pairs(part, config)

    def key() -> str:
        network = run.scored_method.network
        return outputs_key(network, config, part, masks, counted, stepper.device, stepper.dtype)

    return Unfinished(
        run.folder.unfinished, key, run.group, run.vote, config.checkpoint.every_minutes, to_the_end=to_the_end
    )


def _outputs(
    run: Run, name: str, part: Part, unfinished: Unfinished, masks: FixedMasks | None = None
) -> Outputs | Counted | None:
    """Of the weights in the copy; under masks always from images, since holes are in no kept feature."""
    config, method, stepper = run.config, run.scored_method, run.stepper
    from_features = run.features and masks is None

    def blocks(numbers: range) -> Iterator[Block]:
        if from_features:
            return feature_blocks(run.features[name], part, config, numbers)
        images = image_blocks(part, config, numbers)
        return images if masks is None else masked_blocks(images, masks, method.network.mean.cpu(), numbers)

    predict = method.network.head if from_features else method.predict
    predictor = Predictor(predict, config, stepper.device, stepper.dtype)
    collector: Collector[Outputs | Counted] = Pairs(part, config) if keeps_pairs(part, config) else Counts(part, config)
    return collect(collector, predictor, blocks, run.group, broken=run.broken[name], unfinished=unfinished)


def _record(run: Run, summary: dict[str, Any], outputs: Outputs | Counted, part: Part, epoch: float) -> None:
    step, record = run.at.step, run.record
    record.scalars("eval", step, epoch, _known(summary, _CURVES))
    for division in ("size", "occlusion") if summary["stratified"] else ():
        for name, row in (summary["stratified"][division]["strata"] or {}).items():
            record.scalars(f"only_{name.replace(' ', '_')}", step, epoch, _known(row, STRATUM_SCORES))
    record.scalars("AP", step, epoch, {name: ap for name, ap in summary["AP"].items() if ap is not None})
    if run.config.log.pr_curves:
        if isinstance(outputs, Counted):
            curves = pr_curve_of_counts(outputs.counts)
        else:
            curves = pr_curve(outputs.probabilities_NC, part.labels_NC)
        for number, name in enumerate(part.index.classes):
            if summary["positives"][name]:
                record.pr_curve(name, step, curves, number)


def _known(scores: dict[str, Any], keys: Sequence[str]) -> dict[str, float]:
    return {key: scores[key] for key in keys if scores[key] is not None}


def _sheet(run: Run, outputs: Outputs, part: Part, threshold: float) -> NDArray[np.uint8]:
    index, pictures = part.index, []
    for row in range(min(run.config.log.images, len(outputs.broken_N))):
        if outputs.broken_N[row]:
            continue
        sample = int(part.numbers(np.array([row]))[0])
        pixels: Tensor = decode_bytes(
            index.read(sample), index.where(sample), exif=index.exif, max_pixels=run.config.data.max_pixels
        )
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        scores, truth = outputs.probabilities_NC[row].tolist(), index.labels_NC[sample].tolist()
        present = [score >= threshold for score in scores]
        pictures.append(draw_prediction(image, index.classes, scores, present, truth, threshold=threshold))
    return np.asarray(contact_sheet(pictures, 4))
