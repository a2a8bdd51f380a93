"""Exact scores that name their protocol, of outputs of any kind."""

from typing import Any

import numpy as np

from masksup.config.schema import Config
from masksup.data.split import Part
from masksup.evaluation.collect import Counted, Outputs
from masksup.metrics.bootstrap import ScoredPairs
from masksup.metrics.strata import divisions
from masksup.metrics.stratified import interval_protocol, stratified_scores
from masksup.metrics.summary import score, score_counts


def evaluate(outputs: Outputs | Counted, part: Part, config: Config, *, resamples: int = 0) -> dict[str, Any]:
    """All scores of `part` with their protocol: rules, counts, index. Unreadable images are left out and counted.

    To what `score` gives it adds `broken_images`, `labelled_pairs` (those not ignored), `mAP_interval` [low, high],
    `stratified` (`stratified_scores`, by the clean rules whatever `eval.compat` is, or None where the index has no
    boxes) and `stratified_why`, the reason where it is None. resamples 0: no intervals, of
    which there are none of counts either.
    """
    if isinstance(outputs, Counted):
        return _evaluate_counts(outputs, part, config)
    rules = config.eval
    labels_NC = np.where(outputs.broken_N[:, None], np.int8(-1), part.labels_NC)
    summary = score(
        outputs.logits_NC, labels_NC, part.index.classes,
        ap_rule=rules.ap_rule, threshold=rules.threshold, compat=rules.compat,
    )  # fmt: skip
    summary["protocol"] |= _input_protocol(part, config)
    summary["broken_images"] = int(outputs.broken_N.sum())
    summary["labelled_pairs"] = int(np.count_nonzero(labels_NC >= 0))
    return summary | _by_stratum(outputs, part, config, summary["protocol"], resamples)


def _input_protocol(part: Part, config: Config) -> dict[str, Any]:
    return {
        "data": part.title, "index": part.index.hash, "note": part.index.note, "resolution": config.model.size,
        "tf32": config.precision.tf32,
    }  # fmt: skip


def _evaluate_counts(counted: Counted, part: Part, config: Config) -> dict[str, Any]:
    counts = counted.counts
    summary = score_counts(counts, part.index.classes, config.eval.ap_rule)
    summary["protocol"] |= _input_protocol(part, config)
    samples, ignored, broken = (int(total) for total in counts.totals)
    pairs = samples * len(part.index.classes)
    summary["protocol"]["intervals"] = None
    return summary | {
        "broken_images": broken, "labelled_pairs": pairs - ignored, "mAP_interval": None, "stratified": None,
        "stratified_why": f"strata and intervals take every score, and {pairs} are more than eval.exact_pairs",
    }  # fmt: skip


def _by_stratum(
    outputs: Outputs, part: Part, config: Config, protocol: dict[str, Any], resamples: int
) -> dict[str, Any]:
    absent: dict[str, Any] = {"mAP_interval": None, "stratified": None}
    protocol["intervals"] = None
    readable_N = ~outputs.broken_N
    samples_N = part.samples[readable_N]
    labels_NC = part.labels_NC[readable_N]
    if not (labels_NC == 1).any():
        return absent | {"stratified_why": "no sample has a label that is present"}
    divided = divisions(part.index, samples_N, config.eval.size_shares)
    protocol["intervals"] = interval_protocol(resamples)
    pairs = ScoredPairs.of(outputs.logits_NC[readable_N], labels_NC, config.eval.ap_rule, protocol["threshold"])
    image_N = np.asarray(part.index.sample_image_N)[samples_N]
    scores = stratified_scores(pairs, part.index.classes, divided, image_N, resamples=resamples)
    # No released code has such scores: under eval.compat, too, they follow the clean rules, and so does their mAP.
    clean = config.eval.compat == "none"
    interval = {"mAP_interval": scores["all"]["mAP_interval"] if clean else None}
    reasons = [division for division in divided.values() if isinstance(division, str)]
    if len(reasons) == len(divided):
        return absent | interval | {"stratified_why": reasons[0]}
    return interval | {"stratified": scores, "stratified_why": None}
