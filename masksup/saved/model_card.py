"""The model card: markdown written from the facts of a run. What is not known is said, not guessed."""

import json
from pathlib import Path
from typing import Any

from masksup.base.words import counted
from masksup.config.schema import ModelSettings
from masksup.decisions.decisions import CALIBRATION, Decisions
from masksup.errors import UserError
from masksup.runtime.machine import versions
from masksup.saved.open import Trained

_SCORES = ("mAP", "mAUROC", "CF1", "OF1", "CP", "CR", "OP", "OR")
_LISTED = 100  # classes
_REMEDY = {
    "result.json": "Put it back, or move it away to do without the scores of the training",
    CALIBRATION: "Run masksup calibrate again",
}


def model_card(trained: Trained, decisions: Decisions) -> str:
    """Model, data, scores with their protocol, decisions, use, limits and versions of a run."""
    try:
        return _card(trained, decisions)
    except (KeyError, TypeError, AttributeError, IndexError) as error:  # JSON, but not as it was written
        files = f"{trained.run}: result.json or calibration.json"
        raise UserError(f"{files}: damaged ({error!r} while reading it); expected it as it was written") from None


def _card(trained: Trained, decisions: Decisions) -> str:
    result = _read(trained, "result.json")
    parts = [
        f"# {_text(trained.checkpoint)}", _model(trained), _data(trained, result), _training(trained, result),
        _scores(trained, result), _decisions(trained, decisions), _USE, _limits(trained, decisions, result),
        "## Versions\n\n" + ", ".join(f"{name} {version}" for name, version in versions().items()),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


_USE = """## Use

```sh
masksup predict FILE.zip photos --out labels.csv
masksup eval FILE.zip --data data/mine/test
```

```python
import masksup

model = masksup.load("FILE.zip")
for found in model.predict(["photo.jpg"]):
    print(found.labels, found.probabilities)
```"""


def _model(trained: Trained) -> str:
    model, method = trained.config.model, trained.config.method
    parameters = sum(p.numel() for p in trained.network.parameters())
    names = ", ".join(trained.classes[:_LISTED])
    more = f", and {len(trained.classes) - _LISTED} more" if len(trained.classes) > _LISTED else ""
    return _list("Model", {
        "what": f"labels of an image, any number of {counted(len(trained.classes), 'class')}",
        "network": f"{model.backbone}, head {model.head.name}, {counted(parameters, 'parameter')}; "
        f"method {method.name}",
        "input": f"{model.size} x {model.size} px, {trained.config.augment.eval_resize}",
        "weights": f"{trained.weights}, of step {trained.step} (epoch {trained.epoch:.4g}), sha256 of the checkpoint "
        f"{trained.sha256}",
        "classes": names + more,
    })  # fmt: skip


def _data(trained: Trained, result: dict[str, Any]) -> str:
    data = trained.config.data
    chosen = _place(data.eval) if data.eval else None
    chosen = f"fold {data.fold} of {data.folds} of it" if data.folds else chosen
    rows = {
        "trained on": result.get("data") or _place(data.train),
        "epoch chosen on": chosen or "nothing: it is the last epoch",
        "tested on": _place(data.test) if data.test else "nothing",
        "note": trained.note or "none",
    }
    return _list("Data", rows)


def _place(index: str) -> str:
    """The end of an index's path: where it lies on the machine of the training is of no use elsewhere."""
    return "/".join(Path(index).parts[-2:])


def _training(trained: Trained, result: dict[str, Any]) -> str:
    config = trained.config
    rows = {
        "loss": config.loss.name, **_optimiser(trained, result), "seed": str(config.seed),
        "began with": _began(config.model.weights) + _kept(config.model),
    }  # fmt: skip
    if result:
        rows["took"] = f"{result['seconds']:.0f} s on {result['device']}, {counted(result['ranks'], 'process')}"
    return _list("Training", rows) + "\n\nEvery setting is in `config.yaml` beside this card."


def _optimiser(trained: Trained, result: dict[str, Any]) -> dict[str, str]:
    config = trained.config
    if config.optim.name == "lbfgs":
        l2 = result.get("solved", {}).get("l2", config.optim.l2)
        how = " by cross-validation" if config.optim.l2 == "auto" else ""
        return {"optimiser": f"lbfgs: the head is solved, with l2 {l2}{how}"}
    return {
        "optimiser": f"{config.optim.name}, learning rate {config.optim.lr:g}",
        "steps": f"{trained.step} of {counted(config.batch.global_, 'sample')}",
    }


def _began(weights: str) -> str:
    return _place(weights) if Path(weights).is_absolute() else weights


def _kept(model: ModelSettings) -> str:
    if model.lora.rank:
        return f" (backbone adapted by LoRA of rank {model.lora.rank}, merged here)"
    return " (backbone frozen)" if model.frozen else ""


def _scores(trained: Trained, result: dict[str, Any]) -> str:
    """The scores in `result.json` that are of these very weights."""
    tables: list[tuple[str, dict[str, Any]]] = []
    for kind in ("best", "last"):
        for split in ("eval", "test"):
            summary = result.get(kind, {}).get(split)
            if summary and _of_these(summary["protocol"], trained) and not any(split == done for done, _ in tables):
                tables.append((split, summary))
    if not tables:
        return "## Scores\n\nNone are known of these weights."
    lines = ["## Scores", "", "| percent | " + " | ".join(_SCORES) + " | images | classes scored |"]
    lines.append("|---" * (len(_SCORES) + 3) + "|")
    for split, summary in tables:
        cells = ["-" if summary.get(key) is None else f"{summary[key]:.2f}" for key in _SCORES]  # older ones lack some
        lines.append(
            f"| {split} | " + " | ".join([*cells, str(summary["images"]), str(summary["scored_classes"])]) + " |"
        )
    for split, summary in tables:
        protocol = summary["protocol"]
        interval = summary.get("mAP_interval")
        bounds = f"; mAP of other images of this kind {interval[0]:.1f} to {interval[1]:.1f}" if interval else ""
        lines.append("")
        lines.append(
            f"{split}: {_text(protocol['data'])}, index {protocol['index'][:12]}, AP by the rule "
            f"{protocol['ap_rule']}, other scores at probability {protocol['threshold']:g} uncalibrated, "
            f"{protocol['resolution']} px, ignored labels {protocol['ignored_in_ap']}{bounds}"
        )
    return "\n".join(lines)


def _of_these(protocol: dict[str, Any], trained: Trained) -> bool:
    return (protocol.get("checkpoint_sha256"), protocol.get("weights")) == (trained.sha256, trained.weights)


def _decisions(trained: Trained, decisions: Decisions) -> str:
    fitted = decisions.fitted
    if fitted is None:
        return (
            "## Decisions\n\nNothing was fitted: a class is predicted from probability "
            f"{decisions.thresholds[0]:g} on, and the probabilities are not calibrated."
        )
    rows = {
        "aim": str(decisions.aim), "calibration": decisions.calibration.kind,
        "thresholds": f"{min(decisions.thresholds):.3f} to {max(decisions.thresholds):.3f}, in decisions.json",
        "fitted on": f"{fitted.data}, {counted(fitted.samples, 'sample')}", "how": fitted.protocol,
    }  # fmt: skip
    facts = _read(trained, CALIBRATION)
    if facts and (facts["fitted"]["checkpoint_sha256"], facts["aim"]) == (trained.sha256, decisions.aim):
        held = facts["rules"][facts["rule"]]["held_out"]
        before, after = (facts["calibration"][key]["ECE"] for key in ("before", "after"))
        rows["held out"] = f"F1 {held['F1']:.2f}, OF1 {held['OF1']:.2f}, {held['labels']:.2f} labels an image"
        rows["calibration error"] = f"{100 * before:.2f} % before, {100 * after:.2f} % after (held out)"
    return _list("Decisions", rows)


def _limits(trained: Trained, decisions: Decisions, result: dict[str, Any]) -> str:
    lines = [
        "It knows the classes above and no others: an image of something else still gets a probability for each.",
        "Scores and thresholds hold for images like those it was scored on; for others, score it again and calibrate "
        "it on them.",
        "It was not examined for fairness, for safety or against images made to mislead it, so it is not for decisions "
        "about people without such an examination.",
    ]
    if trained.note:
        lines.insert(0, f"Its data is noted as: {_text(trained.note)}.")
    rare = [name for name, count in _positives(result).items() if count < 10]
    if rare:
        shown = ", ".join(map(_text, rare[:20])) + (f" and {len(rare) - 20} more" if len(rare) > 20 else "")
        lines.append(
            f"Classes with fewer than 10 positives in the scored part, too few for a meaningful score: {shown}."
        )
    if decisions.fitted is None:
        lines.append("Its probabilities are not calibrated.")
    return "## What it is not for\n\n" + "\n".join(f"- {line}" for line in lines)


def _positives(result: dict[str, Any]) -> dict[str, int]:
    scores = result.get("best") or result.get("last") or {}
    summary = scores.get("test") or scores.get("eval") or {}
    positives: dict[str, int] = summary.get("positives", {})
    return positives


def _read(trained: Trained, name: str) -> dict[str, Any]:
    """A file of facts beside the run; nothing where there is none. UserError for a damaged one."""
    file = trained.run / name if trained.run is not None else None
    if file is None or not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: damaged ({error}); the card would miss what it holds. {_REMEDY[name]}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: found a {type(found).__name__}, expected an object. {_REMEDY[name]}")
    return found


def _list(title: str, rows: dict[str, str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {key}: {_text(str(value))}" for key, value in rows.items())


def _text(value: str) -> str:
    """On one line, without what markdown or HTML would read as their own."""
    line = " ".join(value.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|&~" else letter for letter in line)
