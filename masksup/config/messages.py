"""The keys of settings, and what is wrong with one, in one line."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from masksup.config.schema import Config
from masksup.errors import nearest

# What settings are called in other training programs.
_ELSEWHERE = {
    "batch.global": ("batch_size", "bs", "train_batch_size", "per_device_train_batch_size", "batchsize"),
    "batch.micro": ("gradient_accumulation_steps", "accum_iter", "accumulate_grad_batches"),
    "data.workers": ("num_workers", "n_workers", "dataloader_num_workers"),
    "epochs": ("max_epochs", "num_epochs", "num_train_epochs", "n_epochs"),
    "eval.batch": ("eval_batch_size", "per_device_eval_batch_size", "val_batch_size"),
    "model.backbone": ("arch", "architecture", "model_name"),
    "model.size": ("imgsz", "img_size", "image_size", "resolution", "input_size"),
    "model.weights": ("pretrained", "checkpoint_path", "ckpt"),
    "optim.clip": ("max_grad_norm", "clip_grad", "gradient_clip_val"),
    "optim.lr": ("learning_rate", "lr0", "base_lr", "max_lr"),
    "optim.name": ("optimizer", "opt"),
    "optim.weight_decay": ("wd",),
    "precision.device": ("accelerator", "gpu"),
    "precision.dtype": ("amp", "fp16", "bf16", "mixed_precision"),
    "schedule.name": ("scheduler", "lr_scheduler", "sched"),
    "schedule.warmup_epochs": ("num_warmup_epochs",),
    "stop.patience_epochs": ("patience", "early_stopping"),
}


def items(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from items(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def leaves(tree: dict[str, Any]) -> list[str]:
    return [key for key, _ in items(tree)]


def first_problem(problems: Sequence[Any]) -> str:
    """What is wrong with the key of the first problem; a value may have one for each form that it could have."""
    problem = problems[0]
    location = [str(part) for part in problem["loc"]]
    kind, message = problem["type"], problem["msg"].replace("a valid tuple", "a list")
    if kind == "extra_forbidden":
        others = keys_named(location[-1])
        typed = "" if isinstance(problem["input"], dict) else f"={problem['input']}"
        hint = (
            f"did you mean {' or '.join(key + typed for key in others)}?"
            if others
            else nearest(location[-1], _known(location[:-1]))
        )
        return f"{'.'.join(location)}: unknown key; {hint}"
    if kind == "missing":
        return f"{'.'.join(location)}: not set, and it has no default"
    if kind == "conflict":
        return str(message)
    if kind == "component":
        return ".".join([*location, str(message)])
    key = key_of(problem)
    forms = dict.fromkeys(_form(other) for other in problems if key_of(other) == key)
    if len(forms) > 1:
        return f"{key}: found {problem['input']!r}; input should be {' or '.join(forms)}"
    return f"{key}: found {problem['input']!r}; {message[:1].lower()}{message[1:]}"


def more(problems: Sequence[Any]) -> str:
    """How many other keys are wrong, for the end of a line; empty for none."""
    others = len({key_of(problem) for problem in problems}) - 1
    return f" (and {others} more)" if others else ""


def key_of(problem: Any) -> str:
    """Without the names that the forms of a value add to a location ("constrained-int", "literal['card']")."""
    location = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return ".".join(location)
    known = _known_anywhere()
    return ".".join([part for part in location if part in known] or location)


def _form(problem: Any) -> str:
    """What a value should be, in one of the forms that it may have."""
    lists = [str(part) for part in problem["loc"] if str(part).startswith("tuple[")]
    message = problem["msg"].removeprefix("Input should be ")
    if not lists or "..." in lists[0]:
        return str(message)
    size = f"a list of {lists[0].count(',') + 1} numbers"
    return f"{size}, each {message}" if problem["type"].startswith(("greater", "less")) else size


def keys_named(name: str) -> list[str]:
    """The dotted keys that end in `name`, `precision.device` for device, or what another program's name means here."""
    name = name.replace("-", "_").lower()
    found = [key for key in schema_keys() if key.rpartition(".")[2] == name]
    return found or [key for key, names in _ELSEWHERE.items() if name in names]


def schema_keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """All dotted keys of a configuration; of a part (head, loss, method) `name` alone, as options depend on it."""
    found = []
    for name, field in section.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += schema_keys(field.annotation, f"{key}.")
        else:
            found.append(key)
    return found


def _known(location: list[str]) -> list[str]:
    section: type[BaseModel] = Config
    for part in location:
        annotation = section.model_fields[part].annotation
        assert isinstance(annotation, type)
        section = annotation
    return [field.alias or name for name, field in section.model_fields.items()]


def _known_anywhere() -> set[str]:
    return {part for key in schema_keys() for part in key.split(".")}
