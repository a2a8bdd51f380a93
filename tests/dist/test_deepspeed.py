"""DeepSpeed on real gloo ranks: it computes what `ddp` computes, and either goes on from the other's state."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dist.engine_ranks import CLASSES, DEADLINE, MICRO, Job, Result, launch, settings, zero

from masksup.base.place import Place
from masksup.config.load import validate
from masksup.engine.build import new_method, new_network
from masksup.engine.parallel.engine import check_engine
from masksup.engine.parallel.zero import LossScale
from masksup.errors import UserError

pytestmark = pytest.mark.timeout(2 * DEADLINE + 60)
STAGES = (0, 1, 2, 3)
CPU = torch.device("cpu")
VIT = {
    "backbone": "test_vit", "size": 32, "head": {"name": "csra"}, "head_start": "prior", "grad_checkpointing": True,
}  # fmt: skip
LORA = {"backbone": "test_vit", "backbone_options": {"depth": 1}, "size": 32, "lora": {"rank": 4}}
MIXED = {  # what an engine wraps: several forwards, weights read from outside, recomputed activations
    "masksup": {"method": {"name": "masksup", "bank": 8}},
    "mcar": {"method": {"name": "mcar", "top": 2, "threshold": 0.47}},  # no tie, see test_exact.py
    "vit": {"model": VIT},
}
SKIPPED_FIRST = [(name, stage) for name in ("sgd", "adamw") for stage in STAGES]
COMPRESSED = ["ddp", *[f"zero{stage}" for stage in STAGES]]
FROZEN = {
    "model__batchnorm": "frozen", "model__weights": "seen elsewhere", "model__grad_checkpointing": True,
    "method": {"name": "masksup", "bank": 8},
}  # fmt: skip
OFFLOADED = {
    2: {"parallel__offload_optimizer": "cpu"},
    3: {"parallel__offload_optimizer": "cpu", "parallel__offload_param": "cpu"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deepspeed")


class Launched(dict[str, list[Result]]):
    """Results of two ranks by job: those that the short form needs, and, once another is asked for, of all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        super().__init__(launch(2, jobs(short=True), folder / "two", 1.5 * DEADLINE))

    def __missing__(self, name: str) -> list[Result]:
        rest = [job for job in jobs(short=False) if job.name not in self]
        assert name in {job.name for job in rest}, name
        self.update(launch(2, rest, self._folder / "more", 3 * DEADLINE))
        return self[name]


@pytest.fixture(scope="module")
def two(folder: Path) -> dict[str, list[Result]]:
    """Two ranks, from the start."""
    return Launched(folder)


def some(values: Any, *short: Any) -> list[Any]:
    """Parameters of a test: only these are of the short form."""
    own = [value if isinstance(value, tuple) else (value,) for value in values]
    few = [value if isinstance(value, tuple) else (value,) for value in short]
    return [pytest.param(*value, marks=[] if value in few else pytest.mark.slow) for value in own]


def jobs(short: bool) -> list[Job]:
    def of(values: Any, *few: Any) -> list[Any]:
        return [value for value in values if not short or value in few]

    found = [Job("ddp", settings(), 20), Job("ddp begun", settings(), 5), Job("zero3 begun", zero(3), 5)]
    found += [Job(f"zero{stage}", zero(stage), 20) for stage in of(STAGES, 0, 2, 3)]
    for stage in of((0, 2, 3), 3):
        found += [Job(f"before{stage}", zero(stage), 1), Job(f"poisoned{stage}", zero(stage), 2, poison=1)]
    for name in of(MIXED, "masksup"):
        found += [Job(f"ddp {name}", settings(**MIXED[name]), 2), Job(f"zero3 {name}", zero(3, **MIXED[name]), 2)]
    found += [Job(f"frozen{stage}", zero(stage, **FROZEN), 2) for stage in of((1, 2, 3), 3)]
    found += [Job("ddp lora", settings(model=LORA), 2), Job("zero2 lora", zero(2, model=LORA), 2)]
    found += [Job(f"offloaded{stage}", zero(stage, **OFFLOADED[stage]), 3) for stage in of(OFFLOADED, 3)]
    found += [Job(f"fp16 zero{stage}", zero(stage, precision__dtype="fp16"), 3, poison=1) for stage in of((0, 2), 2)]
    found += [job for name, stage in of(SKIPPED_FIRST, ("sgd", 3), ("adamw", 2)) for job in skipped_first(name, stage)]
    return found + [job for engine in of(COMPRESSED, "ddp", "zero2") for job in compressed(engine)]


def skipped_first(name: str, stage: int) -> list[Job]:
    tree = zero(stage, optim={"name": name, "lr": 0.001})
    return [
        Job(f"first skipped, {name} zero{stage}", tree, 3, poison=0),
        Job(f"without the first, {name} zero{stage}", tree, 3, without=(0,)),
    ]


def compressed(engine: str) -> list[Job]:
    sgd = {"optim": {"name": "sgd", "lr": 0.01}}  # AdamW's first steps make much of a sign that rounding turned
    tree = settings(**sgd) if engine == "ddp" else zero(int(engine[-1]), **sgd)
    return [Job(f"{kind} {engine}", {**tree, "parallel": {**tree["parallel"], "compress": kind}}, 3)
            for kind in ("none", "bf16")]  # fmt: skip


def largest_difference(a: list[float], b: list[float]) -> float:
    assert len(a) == len(b)
    return max(abs(x - y) / abs(y) for x, y in zip(a, b))


@pytest.mark.parametrize("stage", some(STAGES, 0, 2, 3))
def test_losses_are_those_of_ddp_within_1e4_over_20_steps(stage: int, two: dict[str, list[Result]]) -> None:
    ours, ddp = two[f"zero{stage}"][0], two["ddp"][0]
    assert largest_difference(ours.losses, ddp.losses) < 1e-4
    assert largest_difference(ours.norms, ddp.norms) < 1e-2
    assert ours.tensors.keys() == ddp.tensors.keys()
    for name, value in ddp.tensors.items():
        assert ours.tensors[name].shape == value.shape, name
        assert ours.tensors[name].dtype == value.dtype, name
    assert ours.meta.keys() == ddp.meta.keys()


@pytest.mark.parametrize("stage", some(STAGES, 0, 2, 3))
def test_ranks_hold_the_same_weights_and_batch_norm_statistics_of_their_own(
    stage: int, two: dict[str, list[Result]]
) -> None:
    first, second = (result.tensors for result in two[f"zero{stage}"])
    unequal = {name for name in first if not torch.equal(first[name], second[name])}
    assert unequal
    assert all("running_" in name for name in unequal)


@pytest.mark.parametrize("stage", some((1, 2, 3), 3))
def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_scales(stage: int, two: dict[str, list[Result]]) -> None:
    """With activations computed again, and two views an image."""
    new = new_network(validate(settings(**FROZEN), "test"), CLASSES).backbone.state_dict()
    for rank in two[f"frozen{stage}"]:
        same = {name: torch.equal(rank.tensors[f"model/backbone.{name}"], value) for name, value in new.items()}
        assert all(same[name] for name in same if "running_" in name or "num_batches" in name)
        assert not any(same[name] for name in same if name.endswith(("bn1.weight", "bn2.bias")))


@pytest.mark.parametrize("stage", some((0, 2, 3), 3))
def test_infinity_on_one_rank_is_applied_on_none(stage: int, two: dict[str, list[Result]]) -> None:
    for before, after in zip(two[f"before{stage}"], two[f"poisoned{stage}"]):
        assert after.skipped == [0, 1]
        assert not torch.isfinite(torch.tensor(after.norms[1]))
        for name, value in before.tensors.items():
            if "running_" not in name and "num_batches" not in name:
                assert torch.equal(after.tensors[name], value), name


@pytest.mark.parametrize(("name", "stage"), some(SKIPPED_FIRST, ("sgd", 3), ("adamw", 2)))
def test_a_first_step_that_is_skipped_leaves_no_trace(name: str, stage: int, two: dict[str, list[Result]]) -> None:
    skipped, without = (two[f"{what}, {name} zero{stage}"] for what in ("first skipped", "without the first"))
    for ours, theirs in zip(skipped, without, strict=True):
        assert ours.skipped == [1, 1, 1]
        assert ours.losses[1:] == theirs.losses
        assert ours.tensors.keys() == theirs.tensors.keys()
        for key, value in theirs.tensors.items():
            if "running_" not in key and "num_batches" not in key:
                assert torch.equal(ours.tensors[key], value), key


@pytest.mark.parametrize("stage", some((0, 2, 3), 3))
def test_the_rank_that_infinity_comes_from_is_known(stage: int, two: dict[str, list[Result]]) -> None:
    clean, poisoned = two[f"poisoned{stage}"]
    assert clean.finite == [True] * 3
    assert poisoned.finite == [False] * 3


@pytest.mark.parametrize("name", some(MIXED, "masksup"))
def test_methods_and_recomputed_activations_under_zero_3(name: str, two: dict[str, list[Result]]) -> None:
    assert largest_difference(two[f"zero3 {name}"][0].losses, two[f"ddp {name}"][0].losses) < 1e-4


def test_only_what_lora_adds_is_trained_and_saved_under_zero(two: dict[str, list[Result]]) -> None:
    ours, ddp = two["zero2 lora"], two["ddp lora"][0]
    assert largest_difference(ours[0].losses, ddp.losses) < 1e-3
    assert ours[0].tensors.keys() == ddp.tensors.keys()
    assert all(name.endswith(("lora_a", "lora_b")) or "/head." in name for name in ddp.tensors)
    assert all(torch.equal(ours[0].tensors[n], value) for n, value in ours[1].tensors.items() if "model/" in n)


@pytest.mark.parametrize("stage", some(OFFLOADED, 3))
def test_offloaded_state_computes_the_same(stage: int, two: dict[str, list[Result]]) -> None:
    ours = two[f"offloaded{stage}"][0]
    assert largest_difference(ours.losses, two["ddp"][0].losses[:3]) < 1e-4
    assert ours.tensors.keys() == two["ddp"][0].tensors.keys()


@pytest.mark.parametrize("engine", some(COMPRESSED, "ddp", "zero2"))
def test_gradients_that_travel_in_bf16_are_nearly_those_in_fp32(engine: str, two: dict[str, list[Result]]) -> None:
    ours, whole = two[f"bf16 {engine}"][0], two[f"none {engine}"][0]
    assert largest_difference(ours.norms, whole.norms) < 0.01
    assert largest_difference(ours.losses, whole.losses) < 0.01
    assert ours.losses[0] == pytest.approx(whole.losses[0], rel=1e-6), "nothing has travelled yet"
    assert ours.losses[1:] != whole.losses[1:], "but not the same"
    rounded = {
        name: value.to(torch.bfloat16).float() for name, value in ours.tensors.items() if value.is_floating_point()
    }
    assert any(not torch.equal(ours.tensors[name], value) for name, value in rounded.items()), "weights stay fp32"


@pytest.mark.parametrize("stage", some((0, 2), 2))
def test_fp16_skips_and_halves_its_scale(stage: int, two: dict[str, list[Result]]) -> None:
    for rank in two[f"fp16 zero{stage}"]:
        assert rank.skipped == [0, 1, 1]
        assert rank.meta["scaler"]["scale"] == 2.0**15
        assert rank.meta["scaler"]["_growth_tracker"] == 1
        assert rank.losses[0] == pytest.approx(two["ddp"][0].losses[0], rel=0.01)
        assert rank.norms[0] == pytest.approx(two["ddp"][0].norms[0], rel=0.05)
        assert all(v.dtype == torch.float32 for n, v in rank.tensors.items() if "num_batches" not in n)


def test_the_scale_follows_the_rule_of_torch() -> None:
    ours = LossScale(CPU, torch.float16)
    ours.load({**ours.state(), "growth_interval": 3})
    theirs = torch.amp.GradScaler("cpu", growth_interval=3)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    draw = torch.Generator().manual_seed(0)
    for _ in range(60):
        bad = bool(torch.rand((), generator=draw) < 0.2)
        weight.grad = torch.full((1,), float("inf") if bad else 1.0)
        theirs.scale(torch.ones(()))
        theirs.step(optimizer)
        theirs.update()
        ours.update(found_inf=bad)
        assert ours.state() == theirs.state_dict()
    assert not LossScale(CPU, torch.float32).dynamic
    assert LossScale(CPU, torch.bfloat16).value == 1.0


def same_state(ours: Result, theirs: Result) -> None:
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, value in theirs.tensors.items():
        assert torch.equal(ours.tensors[name], value), name
    assert ours.meta == theirs.meta


def resume_in_fresh_processes(world: int, cases: dict[str, dict[str, Any]], folder: Path) -> None:
    """Eight steps at once, and four and four: equal to the last bit, on every rank."""
    jobs = [Job(f"{name} whole", tree, 8) for name, tree in cases.items()]
    jobs += [Job(f"{name} half", tree, 4) for name, tree in cases.items()]
    before = launch(world, jobs, folder)
    rest = [Job(f"{n} rest", t, 4, first=4, origin=str(folder / f"{n} half")) for n, t in cases.items()]
    after = launch(world, rest, folder)
    for name in cases:
        for whole, resumed in zip(before[f"{name} whole"], after[f"{name} rest"], strict=True):
            assert resumed.losses == whole.losses[4:]
            assert resumed.norms == whole.norms[4:]
            same_state(resumed, whole)


@pytest.mark.slow
def test_resume_is_bit_equal_with_3_ranks(folder: Path) -> None:
    """Also where a process makes another engine first: ZeRO 3 comes between the whole run of ZeRO 2 and its half."""
    cases = {
        "zero2": zero(2),
        "zero3": zero(3),
        "zero2 lora": zero(2, model=LORA),
    }
    resume_in_fresh_processes(3, cases, folder / "three")


@pytest.mark.slow
def test_resume_of_sgd_in_bf16_is_bit_equal(folder: Path) -> None:
    cases = {"sgd, bf16": zero(1, optim={"name": "sgd", "lr": 0.01}, precision__dtype="bf16")}
    resume_in_fresh_processes(3, cases, folder / "sgd")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_runs_are_bit_equal_whatever_ran_before_in_the_process(tmp_path: Path) -> None:
    """20 times each engine in one launch of 3 ranks, in turn, and once in a launch of its own."""
    engines = {"ddp": settings(), **{f"zero{stage}": zero(stage) for stage in STAGES}}
    jobs = [Job(f"{name} {turn}", tree, 4) for turn in range(20) for name, tree in engines.items()]
    results = launch(3, jobs, tmp_path / "in turn", 2 * DEADLINE)
    for name, tree in engines.items():
        alone = launch(3, [Job(name, tree, 4)], tmp_path / name)[name]
        for turn in range(20):
            for ours, theirs in zip(results[f"{name} {turn}"], alone, strict=True):
                assert (ours.losses, ours.norms) == (theirs.losses, theirs.norms), (name, turn)
                same_state(ours, theirs)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_resume_is_bit_equal_for_every_stage_and_number_of_ranks(world: int, dtype: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"precision__dtype": dtype, "batch__global": 12 * MICRO}
    cases = {f"zero{stage}": zero(stage, **changes) for stage in STAGES}
    resume_in_fresh_processes(world, cases, tmp_path)


def goes_on(changed: dict[str, list[Result]], two: dict[str, list[Result]]) -> None:
    for name, results in changed.items():
        assert largest_difference(results[0].losses, two["ddp"][0].losses[5:10]) < 1e-4, name
        steps = {float(v) for n, v in results[0].tensors.items() if n.startswith("optim/step/")}
        assert steps == {10.0}, name


def test_a_change_of_ranks_and_of_engine_goes_on(two: dict[str, list[Result]], folder: Path) -> None:
    ddp, sharded = str(folder / "two" / "ddp begun"), str(folder / "two" / "zero3 begun")
    three = [
        Job("ddp from zero3", settings(), 5, first=5, origin=sharded),
        Job("zero1 from zero3", zero(1), 5, first=5, origin=sharded),
        Job("zero3 from ddp", zero(3), 5, first=5, origin=ddp),
    ]
    goes_on(launch(3, three, folder / "changed"), two)


@pytest.mark.slow
def test_one_process_goes_on_with_what_ranks_began(two: dict[str, list[Result]], folder: Path) -> None:
    ddp, sharded = str(folder / "two" / "ddp begun"), str(folder / "two" / "zero3 begun")
    alone = [
        Job("ddp from zero3, alone", settings(), 5, first=5, origin=sharded),
        Job("zero2 from ddp, alone", zero(2), 5, first=5, origin=ddp),
    ]
    goes_on(launch(1, alone, folder / "alone"), two)


def check(tree: dict[str, Any], world: int) -> None:
    config = validate(tree, "test")
    method = new_method(config, new_network(config, CLASSES), CLASSES, None)
    check_engine(config, method, CPU, Place(0, world, 0, world, "torchrun"))


def refusal(world: int = 2, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        check(zero(changes.pop("stage", 2), **changes), world)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_zero_cannot_do_is_one_line() -> None:
    assert "4 ranks do not divide the 6 micro-batches" in refusal(4)
    assert "nearest: 3 ranks" in refusal(4)
    assert "data.last_batch: found partial" in refusal(data__last_batch="partial")
    assert "model.frozen" in refusal(model__frozen=True)
    assert "precision.compile" in refusal(precision__compile=True)
    assert "parallel.offload_param: needs" in refusal(parallel__offload_param="cpu")
    assert "parallel.zero_options: needs" in refusal(parallel__engine="ddp")
    assert "parallel.zero_options.stage: " in refusal(parallel__zero_options={"stage": 1})
    assert "parallel.zero_options.bucket: found 3" in refusal(parallel__zero_options={"bucket": 3})


def test_gloo_is_refused_on_gpus_where_it_lacks_the_collectives() -> None:
    config = validate(zero(2, parallel__backend="gloo"), "test")
    method = new_method(config, new_network(config, CLASSES), CLASSES, None)
    check_engine(config, method, CPU, Place(0, 2, 0, 2, "torchrun"))
    with pytest.raises(UserError, match=r"parallel\.backend: found gloo, but parallel\.engine is deepspeed on GPUs"):
        check_engine(config, method, torch.device("cuda"), Place(0, 2, 0, 2, "torchrun"))


def test_stage_0_takes_any_number_of_ranks() -> None:
    check(zero(0), 4)


def test_a_method_with_a_copy_of_the_weights_is_refused_at_stage_3(monkeypatch: pytest.MonkeyPatch) -> None:
    from masksup.methods.method import Method

    monkeypatch.setattr(Method, "own_state", lambda self: {"teacher": torch.zeros(1)})
    assert "parallel.zero_stage: found 3, but method baseline keeps a copy" in refusal(stage=3)


def test_deepspeed_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    assert "parallel.engine: found deepspeed, but it cannot be imported" in refusal()


def test_nothing_is_printed_and_nothing_compiled(two: dict[str, list[Result]], folder: Path) -> None:
    for name in ("imports", "rank0", "rank1"):
        lines = (folder / "two" / f"{name}.out").read_text().splitlines()
        assert not [line for line in lines if "eep" in line and "peed" in line], lines
        assert not [line for line in lines if "ninja" in line.lower() or "Building" in line], lines
