"""Settings of different sections that do not go together."""

from masksup.config.components import CSRA_HEADS
from masksup.config.schema import Config
from masksup.errors import UserError


def conflicts(c: Config) -> list[tuple[bool, str]]:
    """Pairs (does it apply, message) for settings that do not go together."""
    whole, micro = c.batch.global_, c.batch.micro_size
    divisors = [d for d in range(1, whole + 1) if whole % d == 0]
    near = min(divisors, key=lambda d: abs(d - micro))
    frozen = "does not go with model.frozen, whose features are computed once; set model.frozen=false or"
    zero = c.parallel.engine == "deepspeed"
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
         f"optim.layer_decay: found {c.optim.layer_decay:g}, but model.frozen trains a head alone; set it to 1"),
        (c.eval.weights == "ema" and c.ema.decay == 0, "eval.weights: ema, but ema.decay is 0 (off)"),
        (c.augment.scale[0] > c.augment.scale[1], "augment.scale: the first number is above the second"),
        (c.augment.ratio[0] > c.augment.ratio[1], "augment.ratio: the first number is above the second"),
        (c.augment.longer_side[0] > c.augment.longer_side[1],
         "augment.longer_side: the first number is above the second"),
        (c.optim.nesterov and (c.optim.name != "sgd" or c.optim.momentum == 0),
         "optim.nesterov: needs optim.name sgd and a momentum above 0"),
        *(_of_csra(**c.model.head.options) if c.model.head.name == "csra" else ()),
        (c.eval.size_shares[0] > c.eval.size_shares[1], "eval.size_shares: the first number is above the second"),
        (len(set(c.eval.masked)) < len(c.eval.masked), "eval.masked: a level stands twice; expected each once"),
        (c.model.frozen and c.data.broken_budget > 0,
         "data.broken_budget: a frozen run keeps the features of every image; set it to 0, prepare with --skip-broken"),
        (c.model.features is not None and not c.model.frozen, "model.features: set, but model.frozen is false"),
        (c.model.frozen and c.augment.crop != "squish", f"augment.crop: {c.augment.crop} {frozen} augment.crop=squish"),
        (c.model.frozen and c.augment.color_jitter is not None,
         f"augment.color_jitter: {frozen} augment.color_jitter=null"),
        (c.model.frozen and c.augment.randaugment is not None,
         f"augment.randaugment: {frozen} augment.randaugment=null"),
        (c.model.frozen and c.augment.cutout > 0, f"augment.cutout: {frozen} augment.cutout=0"),
        (c.model.frozen and c.method.name != "baseline", f"method.name: {c.method.name} {frozen} method.name=baseline"),
        (zero and c.model.frozen, "parallel.engine: deepspeed, but model.frozen trains a head alone; expected ddp"),
        (zero and c.precision.compile,
         "precision.compile: true, but parallel.engine is deepspeed, whose hooks are not compiled; set it to false"),
        (c.parallel.offload_optimizer == "cpu" and not (zero and c.parallel.zero_stage > 0),
         "parallel.offload_optimizer: needs parallel.engine deepspeed and parallel.zero_stage 1, 2 or 3"),
        (c.parallel.offload_param == "cpu" and not (zero and c.parallel.zero_stage == 3),
         "parallel.offload_param: needs parallel.engine deepspeed and parallel.zero_stage 3"),
        (bool(c.parallel.zero_options) and not zero, "parallel.zero_options: needs parallel.engine deepspeed"),
    ]  # fmt: skip


def refuse_ranks(c: Config, world: int) -> None:
    """UserError where there are more ranks than micro-batches in a step."""
    count = c.batch.global_ // c.batch.micro_size
    if world > count:
        raise UserError(
            f"batch.micro: found {count} micro-batch{'es' if count > 1 else ''} of {c.batch.micro_size} in a batch of "
            f"{c.batch.global_}, fewer than the {world} ranks; expected at most {count} ranks, or batch.micro "
            f"{max(c.batch.global_ // world, 1)} or less"
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
