"""Settings of different sections that do not go together."""

from masksup.base.words import counted
from masksup.config.components import CSRA_HEADS
from masksup.config.schema import Config, Section
from masksup.errors import UserError


def conflicts(c: Config) -> list[tuple[bool, str]]:
    """Pairs (does it apply, message) for settings that do not go together."""
    whole, micro = c.batch.global_, c.batch.micro_size
    divisors = [d for d in range(1, whole + 1) if whole % d == 0]
    near = min(divisors, key=lambda d: abs(d - micro))
    return [
        (whole % micro != 0, f"batch.micro: {micro} does not divide batch.global {whole}; nearest: {near}"),
        (c.data.folds == 1, "data.folds: found 1, expected 0 (off) or at least 2"),
        (c.data.folds > 0 and c.data.fold >= c.data.folds,
         f"data.fold: found {c.data.fold}, expected 0 to {c.data.folds - 1} (data.folds is {c.data.folds})"),
        (c.data.folds > 0 and c.data.eval is not None,
         "data.eval: set together with data.folds, which splits the evaluation part off data.train; drop one"),
        (c.schedule.warmup_epochs >= c.epochs and c.schedule.warmup_epochs > 0,
         f"schedule.warmup_epochs: {c.schedule.warmup_epochs:g} is not below epochs {c.epochs:g}"),
        (c.schedule.name == "multistep" and not c.schedule.milestones,
         "schedule.milestones: empty, but schedule.name is multistep"),
        (c.schedule.name == "onecycle" and c.schedule.warmup_epochs > 0,
         "schedule.warmup_epochs: onecycle has its own rise (schedule.pct_start); set it to 0"),
        (c.stop.patience_epochs is not None and c.data.eval is None and c.data.folds == 0,
         f"stop.patience_epochs: found {c.stop.patience_epochs}, but the run scores no evaluation part; set data.eval "
         "or data.folds, or stop.patience_epochs=null"),
        (c.model.frozen and c.optim.layer_decay != 1,
         f"optim.layer_decay: found {c.optim.layer_decay:g}, but model.frozen trains only the head; set it to 1"),
        (c.eval.weights == "ema" and c.ema.decay == 0, "eval.weights: ema, but ema.decay is 0 (off)"),
        (c.augment.size is not None and c.method.name != "baseline",
         f"augment.size: found {c.augment.size}, but method {c.method.name} is made for images of model.size; expected "
         "null, or method.name baseline"),
        (c.augment.scale[0] > c.augment.scale[1], "augment.scale: the first number is above the second"),
        (c.augment.ratio[0] > c.augment.ratio[1], "augment.ratio: the first number is above the second"),
        (c.augment.longer_side[0] > c.augment.longer_side[1],
         "augment.longer_side: the first number is above the second"),
        (c.optim.nesterov and (c.optim.name != "sgd" or c.optim.momentum == 0),
         "optim.nesterov: needs optim.name sgd and a momentum above 0"),
        *(_of_csra(**c.model.head.options) if c.model.head.name == "csra" else ()),
        *_of_lbfgs(c),
        (c.eval.size_shares[0] > c.eval.size_shares[1], "eval.size_shares: the first number is above the second"),
        (len(set(c.eval.masked)) < len(c.eval.masked), "eval.masked: a level stands twice; expected each once"),
        (c.model.frozen and c.data.broken_budget > 0,
         "data.broken_budget: a frozen run keeps the features of every image; set it to 0, prepare with --skip-broken"),
        (c.model.head_start == "prior" and unfit_for_prior(c) is not None,
         f"model.head_start: found prior, but {unfit_for_prior(c)}; expected random or auto"),
        (c.model.batchnorm == "frozen" and c.model.weights == "none" and not c.model.lora.rank,
         "model.batchnorm: found frozen, but model.weights is none, which has no statistics to keep; expected batch"),
        (c.model.features is not None and not c.model.frozen, "model.features: set, but model.frozen is false"),
        *(_of_frozen_features(c) if c.model.frozen else ()),
        *(_of_lora(c) if c.model.lora.rank else ()),
        *_of_tree(c),
        *_of_deepspeed(c),
    ]  # fmt: skip


def _of_tree(c: Config) -> list[tuple[bool, str]]:
    found, parallel = "parallel.sum: found tree, but", c.parallel
    return [
        (parallel.sum == "tree" and parallel.sync_batchnorm,
         f"{found} parallel.sync_batchnorm makes the result depend on the number of ranks; expected auto or ring"),
        (parallel.sum == "tree" and parallel.compress != "none",
         f"{found} parallel.compress is {parallel.compress}, which rounds sums on their way; expected auto or ring"),
    ]  # fmt: skip


def _of_deepspeed(c: Config) -> list[tuple[bool, str]]:
    zero = c.parallel.engine == "deepspeed"
    return [
        (zero and c.model.frozen, "parallel.engine: deepspeed, but model.frozen trains only the head; expected ddp"),
        (zero and c.precision.compile,
         "precision.compile: true, but parallel.engine is deepspeed, whose hooks are not compiled; set it to false"),
        (c.parallel.offload_optimizer == "cpu" and not (zero and c.parallel.zero_stage > 0),
         "parallel.offload_optimizer: needs parallel.engine deepspeed and parallel.zero_stage 1, 2 or 3"),
        (c.parallel.offload_param == "cpu" and not (zero and c.parallel.zero_stage == 3),
         "parallel.offload_param: needs parallel.engine deepspeed and parallel.zero_stage 3"),
        (bool(c.parallel.zero_options) and not zero, "parallel.zero_options: needs parallel.engine deepspeed"),
    ]  # fmt: skip


def _of_lora(c: Config) -> list[tuple[bool, str]]:
    found = f"model.lora.rank: found {c.model.lora.rank}, but"
    return [
        (c.model.frozen, f"{found} model.frozen trains only the head; set model.frozen=false or model.lora.rank=0"),
        (c.parallel.engine == "deepspeed" and c.parallel.zero_stage == 3,
         f"{found} parallel.zero_stage is 3, which takes the layers apart that it adapts; expected 0, 1 or 2"),
    ]  # fmt: skip


def _of_frozen_features(c: Config) -> list[tuple[bool, str]]:
    frozen = "does not go with model.frozen, whose features are computed once; set model.frozen=false or"
    return [
        (c.augment.size is not None, f"augment.size: {c.augment.size} {frozen} augment.size=null"),
        (c.augment.crop != "squish", f"augment.crop: {c.augment.crop} {frozen} augment.crop=squish"),
        (c.augment.color_jitter is not None,
         f"augment.color_jitter: {frozen} augment.color_jitter=null"),
        (c.augment.randaugment is not None,
         f"augment.randaugment: {frozen} augment.randaugment=null"),
        (c.augment.cutout > 0, f"augment.cutout: {frozen} augment.cutout=0"),
        (c.method.name != "baseline", f"method.name: {c.method.name} {frozen} method.name=baseline"),
    ]  # fmt: skip


def unfit_for_prior(c: Config) -> str | None:
    """Why a new head cannot begin at the shares of its classes; None where it can.

    Weights of 0 say nothing of where a class is.
    """
    base = c.method.options.get("base") or {}
    method = base.get("name", "baseline") if c.method.name == "masksup" else c.method.name
    if method != "baseline":
        return f"method {method} cuts by the maps of classes, which a head without weights does not have"
    if c.model.head.name not in ("linear", "csra", "attentive_probe", "ml_decoder", "query2label"):
        return f"head {c.model.head.name} needs weights from the start"
    if c.model.head.name == "linear" and not c.model.head.options["bias"]:
        return "head linear has no bias (model.head.bias)"
    return None


def too_many_ranks(c: Config, world: int) -> str | None:
    """Why so many ranks are more than the micro-batches of a step; None where they are not."""
    if c.optim.name == "lbfgs":  # rank 0 solves the head, and the others share the scoring
        return None
    count = c.batch.micro_batches
    if world <= count:
        return None
    return (
        f"batch.micro: found {count} micro-batch{'es' if count > 1 else ''} of {c.batch.micro_size} in a batch of "
        f"{c.batch.global_}, fewer than the {world} ranks; expected at most {counted(count, 'rank')}, or batch.micro "
        f"{max(c.batch.global_ // world, 1)} or less"
    )


def refuse_ranks(c: Config, world: int) -> None:
    """UserError where some of so many ranks would have nothing to compute."""
    if surplus := too_many_ranks(c, world):
        raise UserError(surplus)


def refuse_zero(c: Config, world: int) -> None:
    """UserError where so many ranks do not divide the micro-batches of a step: ZeRO communicates in each of them."""
    if c.parallel.engine != "deepspeed" or c.parallel.zero_stage == 0:
        return
    count = c.batch.micro_batches
    if count % world:
        near = min((n for n in range(1, count + 1) if count % n == 0), key=lambda n: abs(n - world))
        raise UserError(
            f"parallel.zero_stage: {world} ranks do not divide the {count} micro-batches of a step (batch.global "
            f"{c.batch.global_}, batch.micro {c.batch.micro_size}), as ZeRO needs; nearest: {near} ranks"
        )


def _of_csra(heads: int, temperatures: list[float] | None, **_: object) -> list[tuple[bool, str]]:
    published = ", ".join(map(str, CSRA_HEADS))
    return [
        (temperatures is None and heads not in CSRA_HEADS,
         f"model.head.heads: found {heads}, expected one of {published} (or list the temperatures in "
         "model.head.temperatures)"),
        (temperatures is not None and len(temperatures) != heads,
         f"model.head.temperatures: found {len(temperatures or ())} values, expected {heads} (model.head.heads)"),
    ]  # fmt: skip


def _of_lbfgs(c: Config) -> list[tuple[bool, str]]:
    if c.optim.name != "lbfgs":
        return [(c.optim.l2 != "auto", f"optim.l2: set, but optim.name is {c.optim.name}; it has optim.weight_decay")]
    options = c.model.head.options
    return [
        (not c.model.frozen,
         "optim.name: lbfgs solves a head on kept features, but model.frozen is false; set model.frozen=true"),
        (c.model.head.name != "linear",
         f"model.head.name: {c.model.head.name} cannot be solved by optim.name lbfgs; expected linear"),
        (options.get("bias") is False, "model.head.bias: optim.name lbfgs solves heads with biases; set it to true"),
        (options.get("dropout", 0) > 0,
         f"model.head.dropout: found {options.get('dropout')}, but optim.name lbfgs looks at whole features; set it to "
         "0, optim.l2 is what keeps the weights small"),
        (c.loss.name != "bce", f"loss.name: {c.loss.name} has no single optimum for optim.name lbfgs; expected bce"),
        (c.ema.decay > 0, "ema.decay: optim.name lbfgs takes no steps to average over; set it to 0"),
    ]  # fmt: skip


def without_effect(c: Config) -> list[str]:
    """The keys that differ from their defaults although a head that is solved has no use for them."""
    if c.optim.name != "lbfgs":
        return []
    found: list[tuple[str, Section, str]] = [
        ("epochs", c, "epochs"), ("data.last_batch", c.data, "last_batch"), ("batch.global", c.batch, "global_"),
        ("batch.micro", c.batch, "micro"), ("stop.patience_epochs", c.stop, "patience_epochs"),
        *((f"optim.{name}", c.optim, name) for name in type(c.optim).model_fields if name not in ("name", "l2")),
        *((f"schedule.{name}", c.schedule, name) for name in type(c.schedule).model_fields),
    ]  # fmt: skip
    return [key for key, section, name in found if getattr(section, name) != type(section).model_fields[name].default]
