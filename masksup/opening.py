"""Opening a run: everything is checked and built before the run folder is touched, then the state is put back."""

import copy
from pathlib import Path

from masksup.config import Config
from masksup.data.source import make_plan, open_source
from masksup.engine.build import freeze, new_method, new_network
from masksup.engine.ema import MovingAverage
from masksup.engine.features import FrozenFeatures, compute_features
from masksup.engine.parallel.engine import make_engine
from masksup.engine.precision import choose_device, choose_dtype, memory_format, set_numerics
from masksup.engine.state import restore
from masksup.engine.step import Stepper
from masksup.errors import UserError
from masksup.models.network import Network
from masksup.models.weights import load_weights
from masksup.run import At, Run
from masksup.runtime.checkpoint import Saver, list_checkpoints, newest_valid
from masksup.runtime.log import log, start_logging
from masksup.runtime.place import Place
from masksup.runtime.record import Record
from masksup.runtime.run_folder import open_run
from masksup.trained import is_run, open_trained


def open_training(config: Config, run_dir: Path) -> Run:
    """Build the run that `config` describes and continue it from the newest whole checkpoint in `run_dir`.

    UserError leaves `run_dir` as it was, unless what is wrong is in `run_dir` itself.
    """
    source = open_source(config.data, config.seed)
    classes = source.classes
    threads = set_numerics(config.precision)
    device = choose_device(config.precision)
    dtype = choose_dtype(config.precision, device)
    plan = make_plan(config, source.train)
    network = new_network(config, len(classes))
    resumes = bool(list_checkpoints(run_dir / "checkpoints"))
    weights = None if resumes else _first_weights(config, network, classes)
    network.to(device).to(memory_format=memory_format(config.precision))
    if config.model.frozen:
        freeze(network)
    method = new_method(config, network, len(classes), source.train).to(device)
    scored = copy.deepcopy(method).eval()
    if config.precision.compile:
        network.compile()
    engine = make_engine(config, method.train(), device, dtype, Place())
    stepper = Stepper(engine, device, dtype, config.seed)
    ema = MovingAverage(config.ema, network) if config.ema.decay > 0 else None

    folder = open_run(run_dir, config)
    start_logging(folder.path / "logs" / "rank0.log")
    saver = Saver(folder.checkpoints, folder.attempt, config.checkpoint.keep)
    run = Run(config, folder, source, plan, network, stepper, ema, {}, scored, Record(folder.path), saver, At())
    if resumes:
        _resume(run)
    run.record.start(run.at.step)
    _introduce(run, threads, weights)
    if config.model.frozen:
        run.features = _frozen_features(run)
    return run


def _first_weights(config: Config, network: Network, classes: tuple[str, ...]) -> str:
    """Fill a new network with what `model.weights` names: a backbone file, or a run of ours with its head.

    Returns a line for the log.
    """
    source = config.model.weights
    if not is_run(Path(source)):
        report = load_weights(network.backbone, source)
        return report.line()
    trained = open_trained(Path(source))
    own, other = network.state_dict(), trained.network.state_dict()
    fitting = {name: value for name, value in other.items() if name in own and own[name].shape == value.shape}
    head_fits = trained.classes == classes and all(n in fitting for n in own if n.startswith("head."))
    wrong = [name for name in own if name.startswith("backbone.") and name not in fitting]
    if wrong:
        raise UserError(f"model.weights: {source}: is of another backbone ({len(wrong)} tensors differ: {wrong[0]})")
    kept = {name: value for name, value in fitting.items() if head_fits or name.startswith("backbone.")}
    network.load_state_dict(kept, strict=False)
    head = "backbone and head" if head_fits else "backbone (the head is new: other classes or another head)"
    return f"weights: {head} of {trained.checkpoint}, {trained.weights}"


def _resume(run: Run) -> None:
    folder = run.folder
    saved, problems = newest_valid(folder.checkpoints)
    for path, problem in problems.items():
        log.warning(f"{problem}; using the one before it")
        if saved is not None:  # out of the way, so that it does not count among those that are kept
            path.rename(path.with_name(f"damaged-{path.name}"))
    if saved is None:
        raise UserError(f"{folder.checkpoints}: none of its checkpoints is whole; use another --run-dir to start anew")
    if not {"at", "hashes"} <= saved.meta.keys():
        raise UserError(f"{folder.checkpoints}: its newest checkpoint was not written by a training of this program")
    if saved.meta["hashes"] != run.source.hashes:
        raise UserError(f"{folder.path}: the indexes changed since this run was started; use another --run-dir")
    restore(saved, run.network, run.stepper, run.ema)
    run.at = At(**saved.meta["at"])


def _introduce(run: Run, threads: int, weights: str | None) -> None:
    config, network = run.config, run.network
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    log.info(f"run folder: {run.folder.path}    watch it: tensorboard --logdir {run.folder.path.parent}")
    log.info(
        f"training on {run.source.train.title}: {len(run.source.train)} samples, {len(run.source.classes)} classes"
    )
    for scored in (run.source.eval, run.source.test):
        if scored is not None:
            log.info(f"scoring on {scored.title}: {len(scored)} samples")
    log.info(
        f"{config.model.backbone} + {config.model.head.name}, {config.model.size} px, {trained:,} parameters "
        f"trained; {run.stepper.device.type}, {str(run.stepper.dtype).removeprefix('torch.')}, {threads} threads"
    )
    if weights is not None:
        log.info(weights)
    positives_C = (run.source.train.labels_NC == 1).sum(0)
    empty = [name for name, count in zip(run.source.classes, positives_C) if count == 0]
    if empty:
        log.warning(f"classes without a positive training sample, which cannot be learnt: {', '.join(empty)}")
    if run.at.step:
        log.info(f"going on from step {run.at.step} of {run.plan.total_steps} (attempt {run.folder.attempt})")
        run.record.event(run.at.step, f"resumed, attempt {run.folder.attempt}")
    else:
        run.record.hyperparameters(config)


def _frozen_features(run: Run) -> dict[str, FrozenFeatures]:
    config, stepper = run.config, run.stepper
    folder = Path(config.model.features) if config.model.features else run.folder.path / "features"
    found: dict[str, FrozenFeatures] = {}
    for name, part in (("train", run.source.train), ("eval", run.source.eval), ("test", run.source.test)):
        if part is not None:
            flip = name == "train" and config.augment.flip > 0
            found[name] = compute_features(
                run.network, part, config, folder, stepper.device, stepper.dtype, flip, log.info
            )
    return found
