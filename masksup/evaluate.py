"""Exact scores that name their protocol: during training, and by `masksup eval`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.config import Config
from masksup.data.index import open_index
from masksup.data.masks import FixedMasks, Level, evaluation_masks
from masksup.data.source import Part, open_source, refuse_other_classes, whole
from masksup.engine.infer import Outputs, image_blocks, masked_blocks, run_part
from masksup.engine.precision import choose_device, choose_dtype, memory_format, set_numerics
from masksup.errors import UserError
from masksup.metrics.summary import score
from masksup.metrics.tables import headline, tables
from masksup.runtime.distributed import Group, joined
from masksup.runtime.log import console, log, start_logging
from masksup.runtime.place import Place
from masksup.runtime.run_folder import refuse_unwritable, write_json
from masksup.trained import Trained, WhichWeights, open_trained


def evaluate(outputs: Outputs, part: Part, config: Config) -> dict[str, Any]:
    """All scores of `part` with their protocol: rules, counts, index. Unreadable images are left out and counted."""
    rules = config.eval
    labels_NC = np.where(outputs.broken_N[:, None], np.int8(-1), part.labels_NC)
    summary = score(
        outputs.probabilities_NC, labels_NC, part.index.classes,
        ap_rule=rules.ap_rule, threshold=rules.threshold, compat=rules.compat,
    )  # fmt: skip
    summary["protocol"] |= {"data": part.title, "index": part.index.hash, "resolution": config.model.size}
    summary["broken_images"] = int(outputs.broken_N.sum())
    return summary


def predict_part(
    trained: Trained, part: Part, group: Group, workers: int | None = None, masks: FixedMasks | None = None
) -> Outputs | None:
    """Outputs for a part, on rank 0 (None elsewhere), under the run's own settings of size, batch and precision. `masks` hide part of each image."""
    config = trained.config
    if workers is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"workers": workers})})
    device = choose_device(config.precision)
    trained.method.to(device).to(memory_format=memory_format(config.precision))
    blocks = image_blocks(part, config, group.place)
    if masks is not None:
        blocks = masked_blocks(blocks, masks, trained.network.mean.cpu(), group.place)
    dtype = choose_dtype(config.precision, device)
    return run_part(trained.method.predict, blocks, len(part), config, device, dtype, group)


def run_eval(
    path: Path, data: Path | None, weights: WhichWeights, overrides: dict[str, Any], json_file: Path | None,
    predictions: Path | None, masked: Level | None = None,
) -> int:  # fmt: skip
    """`masksup eval`: score a run or checkpoint on an index and print the tables.

    masked: hide part of every image under masks of this level, fixed for each sample id.
    """
    start_logging()
    trained = open_trained(path, weights)
    rules = trained.config.eval.model_copy(update={k: v for k, v in overrides.items() if v is not None})
    trained = _with(trained, rules)
    part = _part_to_score(trained, data)
    for file in (json_file, predictions):
        if file is not None:
            refuse_unwritable(file.parent)
    set_numerics(trained.config.precision)
    log.info(f"{trained.checkpoint} ({trained.weights} weights) on {part.title}: {len(part)} samples")
    masks = None
    if masked is not None:
        masks = evaluation_masks(masked, trained.config.model.size, [part.index.id(int(n)) for n in part.samples])
    outputs = predict_part(trained, part, masks=masks)
    summary = evaluate(outputs, part, trained.config)
    summary["protocol"] |= {**_who(trained), "masked": None if masks is None else masks.protocol}
    log.info(headline(summary))
    for table in tables(summary, console.width):
        console.print(table)
    _remarks(summary, trained)
    if json_file is not None:
        write_json(json_file, summary)
        log.info(f"scores with their protocol: {json_file}")
    if predictions is not None:
        write_predictions(predictions, outputs.logits_NC, part)
        log.info(f"scores of every sample: {predictions}")
    return 0


def write_predictions(file: Path, logits_NC: NDArray[np.float32], part: Part) -> None:
    """An .npz with ids N, classes C, logits float32 N x C and labels int8 N x C (1, 0, -1 ignored)."""
    ids = np.array([part.index.id(int(sample)) for sample in part.samples])
    partial = file.with_name(f".{file.name}.partial.npz")
    np.savez(partial, ids=ids, classes=np.array(part.index.classes), logits=logits_NC, labels=part.labels_NC)
    partial.replace(file)


def _with(trained: Trained, rules: Any) -> Trained:
    return replace(trained, config=trained.config.model_copy(update={"eval": rules}))


def _part_to_score(trained: Trained, data: Path | None) -> Part:
    if data is not None:
        part = whole(open_index(data))
        refuse_other_classes("--data", part.index, trained.classes, f"in {trained.checkpoint}")
        return part
    source = open_source(trained.config.data, trained.config.seed)
    part_or_none = source.test or source.eval
    if part_or_none is None:
        raise UserError("--data: not given, and the run's configuration names no data.eval or data.test")
    return part_or_none


def _who(trained: Trained) -> dict[str, Any]:
    return {
        "weights": trained.weights, "checkpoint": trained.checkpoint, "checkpoint_sha256": trained.sha256,
        "step": trained.step, "epoch": trained.epoch,
    }  # fmt: skip


def _remarks(summary: dict[str, Any], trained: Trained) -> None:
    if summary["unscored"]:
        log.info(f"without positives, so not scored: {', '.join(summary['unscored'])}")
    protocol = summary["protocol"]
    masked = protocol["masked"]
    under = f", under {masked['level']} masks ({masked['masks_sha256'][:12]})" if masked else ""
    log.info(
        f"protocol: {protocol['data']}, {protocol['resolution']} px, {trained.weights} weights of epoch "
        f"{trained.epoch:g}, checkpoint {trained.sha256[:12]}, index {protocol['index'][:12]}{under}"
    )
