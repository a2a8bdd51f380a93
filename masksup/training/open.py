"""Opening a run: everything is checked and built before the run folder is touched, then the state is put back."""

import copy
from dataclasses import replace
from pathlib import Path

import torch

from masksup.base.log import log, start_logging
from masksup.base.place import Place
from masksup.base.words import counted
from masksup.config.auto import adds_as_tree, resolved, with_head_start, with_sum, with_threads
from masksup.config.conflicts import refuse_ranks, too_many_ranks
from masksup.config.load import validate
from masksup.config.on_resume import changed
from masksup.config.schema import Config, OnResume
from masksup.data.split import Source, make_plan, open_source
from masksup.engine.build import freeze, new_method, new_network
from masksup.engine.compiling import compile_networks
from masksup.engine.ema import MovingAverage
from masksup.engine.head_start import start_at_prior
from masksup.engine.micro import with_common_micro
from masksup.engine.parallel.engine import check_engine, make_engine
from masksup.engine.precision import choose_device, choose_dtype, choose_threads, placed, set_numerics
from masksup.engine.state import of_this_rank, refuse_other_model, restore, same_head
from masksup.engine.step import Stepper
from masksup.errors import UserError
from masksup.models.backbones import map_side
from masksup.models.layers import layer_scales
from masksup.models.lora import add_lora
from masksup.models.network import Network
from masksup.models.weights import load_weights
from masksup.runtime.broken_images import BrokenImages
from masksup.runtime.checkpoint import State, list_checkpoints, newest_valid, read_checkpoint, step_of
from masksup.runtime.machine import device_model, versions
from masksup.runtime.metrics_log import Record
from masksup.runtime.ranks import Group, Vote
from masksup.runtime.run_folder import RunFolder, as_in_folder, finished, join_run, open_run
from masksup.runtime.saver import Saver
from masksup.runtime.shelf import given_state
from masksup.saved.open import is_run, open_trained
from masksup.training.adapted import keep_base, put_base, refuse_copies
from masksup.training.frozen import frozen_features, make_sure_of_room
from masksup.training.introduce import introduce
from masksup.training.run import Built, Progress, Run
from masksup.training.snapshots import new_snapshots
from masksup.training.what_next import tell_finished


def as_begun(config: Config, run_dir: Path, group: Group) -> tuple[Config, bool]:
    """`config` with what the run in `run_dir` has chosen where it says `auto`, and whether that run is finished.

    As rank 0 sees it, and says, since what others see of a shared folder may be older. Collective.
    """
    done = False
    with group.together():
        if group.first:
            config = as_in_folder(run_dir, config)
            done = finished(run_dir, config)
            if done:
                tell_finished(run_dir)
    told: tuple[Config, bool] = group.broadcast((config, done))
    return told


def open_training(config: Config, run_dir: Path, group: Group) -> Run:
    """Build the run that `config` describes and continue it from the newest whole checkpoint in `run_dir`. Collective.

    UserError leaves `run_dir` as it was, unless what is wrong is in `run_dir` itself.
    """
    # Of all that ranks see in a folder they share, rank 0 decides: they may not see the same at one moment.
    kept, resumes = _kept(run_dir, group), False
    with group.together():
        resumes = group.first and (kept is not None or bool(list_checkpoints(run_dir / "checkpoints")))
    resumes = group.broadcast(resumes)
    built, told = built_together(config, run_dir, resumes, group)
    config = built.config
    engine = make_engine(config, built.method.train(), built.device, built.dtype, group.place)
    stepper = Stepper(engine, built.device, config.seed)
    ema = MovingAverage(config.ema, engine.network_state()) if config.ema.decay > 0 else None
    folder = _enter(run_dir, config, built.source.hashes, group)
    run = Run(
        **vars(built), group=group, machine=_machine(built.device, group), vote=Vote(group), folder=folder,
        record=Record(folder.path, writes=group.first),
        saver=Saver(folder.checkpoints, folder.start, config.checkpoint.keep, folder.refuse_replaced),
        stepper=stepper, ema=ema, snapshots=new_snapshots(config, group.first),
        broken=_broken(config, built.source), features={}, progress=Progress(),
    )  # fmt: skip
    if resumes:
        run = _resumed(run, kept)
    elif config.model.lora.rank:
        keep_base(run)
    with group.together():
        run.record.start(run.progress.step)
    introduce(run, told)
    return replace(run, features=frozen_features(run)) if config.model.frozen else run


def built_together(config: Config, run_dir: Path, resumes: bool, group: Group) -> tuple[Built, list[str]]:
    """`build` on every rank, with a micro-batch that fits on all of them and the threads of rank 0. Collective."""
    config = with_common_micro(config, group)
    # Of rank 0, since other threads are other bits, and nodes may differ.
    config = with_threads(config, group.broadcast(choose_threads(config.precision, group.place.local_world)))
    with group.together():
        found = build(config, run_dir, resumes, group.place)
    return found  # noqa: RET504  what `together` raises ends the function, which mypy does not know


def _machine(device: torch.device, group: Group) -> dict[str, str]:
    """What `Run.machine` holds, on every rank. Collective."""
    return {"device": ", ".join(sorted(set(group.all(device_model(device))))), **versions()}


def _broken(config: Config, source: Source) -> dict[str, BrokenImages]:
    parts = {"train": source.train, "eval": source.eval, "test": source.test}
    return {
        name: BrokenImages(part.index, len(part), config.data.broken_budget) for name, part in parts.items() if part
    }


def build(config: Config, run_dir: Path, resumes: bool, place: Place) -> tuple[Built, list[str]]:
    """What the configuration describes, and lines for the log; a run that `resumes` has its weights in a checkpoint."""
    source = open_source(config.data, config.seed)
    classes = source.classes
    threads = set_numerics(config.precision, place.local_world)
    device = choose_device(config.precision)
    dtype = choose_dtype(config.precision, device)
    config = with_sum(config)
    plan = make_plan(config, source.train)
    _refuse_ranks(config, place, device)
    config = with_head_start(config)
    network = new_network(config, len(classes))
    if config.augment.size is not None:
        map_side(network.backbone, config.augment.size, "augment.size")
    layer_scales(network.backbone, config.optim.layer_decay)  # refuses what has no layers, before anything is written
    has_batch_norm = bool(network.backbone.batch_norms)
    if config.model.batchnorm == "frozen" and not has_batch_norm:
        raise UserError(f"model.batchnorm: found frozen, but {config.model.backbone} has no batch norm; expected auto")
    nothing_to_set = config.model.batchnorm == "batch" and not has_batch_norm
    config = resolved(config, has_batch_norm)
    if config.model.lora.rank and has_batch_norm and config.model.batchnorm == "batch":
        raise UserError("model.batchnorm: found batch, but model.lora leaves the backbone as it is; expected frozen")
    network.backbone.frozen_batch_norm = config.model.batchnorm == "frozen"
    told, new_head = ([], False) if resumes else _first_weights(config, network, classes)
    if nothing_to_set and not resumes:
        told.append(f"model.batchnorm: batch has no effect, because {config.model.backbone} has no batch norm")
    if surplus := too_many_ranks(config, place.world):
        told.append(f"ranks without a micro-batch only help to score: {surplus}")
    placed(network, device, config.precision)
    if config.model.frozen:
        freeze(network)
        if place.first and not resumes:
            make_sure_of_room(config, source, network, run_dir, device, dtype)
    method = new_method(config, network, len(classes), source.train).to(device)
    if new_head and config.model.head_start == "prior":
        start_at_prior(config, method, source.train)
        told[-1] += "; the new head begins at the frequency of each class, as the loss sees it (model.head_start)"
    check_engine(config, method, device, place)
    scored = copy.deepcopy(method).eval()
    if config.model.lora.rank:
        refuse_copies(config, method)
        told.append(add_lora(network.backbone, config.model.lora, config.seed))
    for compiled in (method, scored):
        compile_networks(compiled, config.precision)
    return Built(config, source, plan, network, method, scored, device, dtype, threads), told


def _refuse_ranks(config: Config, place: Place, device: torch.device) -> None:
    """UserError where so many ranks, or ranks of this kind, cannot share the work."""
    if not adds_as_tree(config):
        refuse_ranks(config, place.world)
    if config.parallel.sync_batchnorm and device.type == "cpu":
        raise UserError("parallel.sync_batchnorm: found true, but the ranks run on CPUs; torch has it for GPUs only")


def _enter(run_dir: Path, config: Config, indexes: dict[str, str], group: Group) -> RunFolder:
    """The run folder: opened, locked and numbered by rank 0."""
    opened: RunFolder | None = None
    with group.together():
        if group.first:
            opened = open_run(run_dir, config, indexes)
    start = group.broadcast(opened.start if opened else None)
    with group.together():
        folder = opened or join_run(run_dir, start)
        start_logging(folder.path / "logs" / f"rank{group.place.rank}.log", group.place.rank)
    if group.watchdog is not None:
        group.watchdog.dump_to(folder.path / "logs" / f"rank{group.place.rank}.log")
    return folder


def _first_weights(config: Config, network: Network, classes: tuple[str, ...]) -> tuple[list[str], bool]:
    """Fill a new network with what `model.weights` names: a backbone file, or a run of ours with its head.

    Returns lines for the log, and whether the head is a new one.
    """
    source = config.model.weights
    if not is_run(Path(source)):
        report = load_weights(network.backbone, source)
        return [report.line()], True
    trained = open_trained(Path(source))
    own, other = network.state_dict(), trained.network.state_dict()
    fitting = {name: value for name, value in other.items() if name in own and own[name].shape == value.shape}
    head_fits = trained.classes == classes and same_head(own, other)
    wrong = [name for name in own if name.startswith("backbone.") and name not in fitting]
    if wrong:
        raise UserError(
            f"model.weights: {source}: is of another backbone (in {counted(len(wrong), 'tensor')}, such as {wrong[0]})"
        )
    kept = {name: value for name, value in fitting.items() if head_fits or name.startswith("backbone.")}
    network.load_state_dict(kept, strict=False)
    head = "backbone and head" if head_fits else "backbone (the head is new: other classes or another head)"
    return [f"weights: {head} of {trained.checkpoint}, {trained.weights}"], not head_fits


def _kept(run_dir: Path, group: Group) -> State | None:
    """The snapshot in memory to go on from, if every rank has it and no checkpoint is newer. Collective."""
    state = given_state()
    if not all(group.all(state is not None)):
        return None
    assert state is not None
    saved = 0
    with group.together():
        if group.first:
            saved = max(map(step_of, list_checkpoints(run_dir / "checkpoints")), default=0)
    return state if group.broadcast(saved) <= state.meta["step"] else None


def _resumed(run: Run, kept: State | None) -> Run:
    """The run with a snapshot put back, or the newest whole checkpoint, which rank 0 finds and every rank verifies."""
    group, name, saved = run.group, "a snapshot in memory", kept
    with group.together():
        if group.first and saved is None:
            saved = _newest(run.folder)
            name = str(saved.meta["name"])
    name = group.broadcast(name)
    with group.together():
        saved = saved or read_checkpoint(run.folder.checkpoints / name)
        if saved.meta["hashes"] != run.source.hashes:
            raise UserError(f"{run.folder.path}: the indexes changed since this run was started; use another --run-dir")
        refuse_other_model(run.whole.kept_state(), saved.part("model"), name)
    restore(of_this_rank(saved, group.place), run.stepper, run.ema)
    run = replace(run, progress=_progress_of(saved))
    if run.config.model.lora.rank:
        with group.together():
            put_base(run.folder.path, run.progress.base_sha256, run.network.backbone)
    with group.together():
        if group.first:
            run.saver.take_up(run.progress.best)
    run.progress.best = group.broadcast(run.saver.best)
    for part, samples in run.progress.broken.items():
        run.broken[part].known.update(samples)
    before = saved.meta.get("ranks", 1), saved.meta.get("threads", run.threads)
    same = before[1] == run.threads and (before[0] == group.world or adds_as_tree(run.config))
    if not same:
        log.warning(
            f"saved by {counted(before[0], 'rank')} of {counted(before[1], 'thread')}, going on with {group.world} of "
            f"{run.threads}: the same samples and micro-batches, summed in another order"
        )
    _tell_changes(run, saved)
    return run


def _tell_changes(run: Run, saved: State) -> None:
    """Say, and keep for `result.json`, what is not as the state was computed with: settings, device, libraries."""
    settings = changed(validate(saved.meta["config"], str(saved.meta["name"])), run.config, OnResume.TOLD)
    if run.device.type == "cuda" and "tf32" not in saved.meta["config"]["precision"]:
        # The versions without this setting left torch's own default.
        settings["precision.tf32"] = f"true for convolutions alone -> {run.config.precision.tf32}"
    before = saved.meta.get("machine", {})  # older checkpoints do not say
    settings |= {key: f"{before[key]} -> {now}" for key, now in run.machine.items() if before.get(key, now) != now}
    if not settings:
        return
    run.progress.changed.append({"step": run.progress.step, "start": run.folder.start, "settings": settings})
    shown = "; ".join(f"{key}: {values}" for key, values in settings.items())
    log.warning(f"going on otherwise ({shown}): the same run, but not promised to be bit-equal from here on")


def _progress_of(saved: State) -> Progress:
    """Where the run was. Another version of this program may have kept other facts of it."""
    try:
        return Progress(**saved.meta["at"])
    except TypeError as error:
        raise UserError(
            f"{saved.meta['name']}: written by another version of this program ({error}); go on with that version, or "
            "start anew in another --run-dir"
        ) from None


def _newest(folder: RunFolder) -> State:
    saved, problems = newest_valid(folder.checkpoints)
    for path, problem in problems.items():
        log.warning(f"{problem}; using the one before it")
        if saved is not None:  # out of the way, so that it does not count among those that are kept
            path.rename(path.with_name(f"damaged-{path.name}"))
    if saved is None:
        raise UserError(f"{folder.checkpoints}: no checkpoint in it is whole; use another --run-dir to begin a new run")
    if not {"at", "hashes"} <= saved.meta.keys():
        raise UserError(f"{folder.checkpoints}: its newest checkpoint was not written by a training of this program")
    return saved
