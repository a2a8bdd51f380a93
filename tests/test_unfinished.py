"""Evaluations that are cut off and go on: the same scores to the last bit, and no block is run twice."""

import errno
import functools
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_same_run
from forked import on_ranks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import masksup.evaluation.forward as infer
import masksup.evaluation.kept as module
from masksup.base.log import start_logging
from masksup.base.place import ALONE
from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.data.masks import evaluation_masks
from masksup.data.shapes import prepare_shapes
from masksup.data.split import Part, whole
from masksup.data.write_index import write_index
from masksup.errors import UserError
from masksup.evaluation.blocks import image_blocks
from masksup.evaluation.collect import Counted, Counts, Outputs, Pairs
from masksup.evaluation.forward import Predictor, collect
from masksup.evaluation.kept import Stopped, Unfinished, outputs_key
from masksup.exits import READER_LEFT, STOPPED
from masksup.metrics.summary import COUNTED, EXACT
from masksup.runtime.ranks import SAVE, Group, Vote
from masksup.saved.open import open_trained
from masksup.training.train import train

MakeConfig = Callable[..., Config]
Score = Any
CPU = torch.device("cpu")
CLASSES, BLOCKS = 12, 10  # 20 images in blocks of 2
NEVER = 1e9


class Predict:
    """Fixed logits of each image, and how often they were asked for; stops the process's evaluation after some."""

    def __init__(self, stop_after: int | None, monkeypatch: Any = None) -> None:
        self.calls, self.stop_after = 0, stop_after
        self.weights_DC = torch.randn(3 * 32 * 32, CLASSES, generator=torch.Generator().manual_seed(0))

    def __call__(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return (images_B3SS.float().flatten(1) / 255 - 0.5) @ self.weights_DC / 4

    def asked(self) -> str | None:
        return "SIGTERM" if self.stop_after is not None and self.calls >= self.stop_after else None


def evaluation(
    group: Group, score: Score, part: Part, config: Config, folder: Path, stop_after: int | None = None,
    minutes: float = NEVER, to_the_end: bool = False, key: str = "key", predict: Predict | None = None,
) -> tuple[Any, int]:  # fmt: skip
    """The outputs ("stopped" if it was), and how many blocks this rank ran; it is asked to stop after some."""
    predict = predict or Predict(stop_after)
    vote = Vote(group)
    real, module.stop_requested = module.stop_requested, predict.asked
    unfinished = Unfinished(folder, lambda: key, group, vote, minutes, to_the_end)
    try:
        predictor = Predictor(predict, config, CPU, torch.float32)
        blocks = partial(image_blocks, part, config)
        found = collect(score(part, config), predictor, blocks, group, unfinished=unfinished)
    except Stopped:
        found = "stopped"
    finally:
        module.stop_requested = real
    vote.drain()
    return found, predict.calls


def alone(config: Config) -> Group:
    return Group(ALONE, config.parallel)


def assert_same(a: Outputs | Counted, b: Outputs | Counted) -> None:
    if isinstance(a, Counted):
        assert isinstance(b, Counted)
        assert all(np.array_equal(x, y) for x, y in zip(a.counts.arrays, b.counts.arrays))
        a, b = a.head, b.head
    assert isinstance(a, Outputs)
    assert isinstance(b, Outputs)
    assert np.array_equal(a.logits_NC, b.logits_NC)
    assert np.array_equal(a.broken_N, b.broken_N)


@pytest.fixture(scope="module")
def config(tiny_config: MakeConfig) -> Config:
    return tiny_config(eval={"batch": 2})


@pytest.fixture(autouse=True)
def _told() -> None:
    start_logging(rank=0)


@pytest.fixture(scope="module")
def part(tiny_data: Path) -> Part:
    return whole(open_index(tiny_data / "val"))


@pytest.mark.parametrize("score", [Pairs, Counts])
@pytest.mark.parametrize("block", range(BLOCKS))
def test_it_goes_on_at_the_block_it_was_stopped_at(
    block: int, score: Score, part: Part, config: Config, tmp_path: Path
) -> None:
    clean, calls = evaluation(alone(config), score, part, config, tmp_path)
    assert calls == BLOCKS
    assert evaluation(alone(config), score, part, config, tmp_path, stop_after=block) == ("stopped", block)
    found, calls = evaluation(alone(config), score, part, config, tmp_path)
    assert calls == BLOCKS - block
    assert_same(found, clean)


@pytest.mark.parametrize("score", [Pairs, pytest.param(Counts, marks=pytest.mark.slow)])
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    starts=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=4),
    minutes=st.sampled_from([0, NEVER]),
)
def test_any_ranks_go_on_after_any_others(
    starts: list[tuple[int, int]], minutes: float, score: Score, part: Part, config: Config, tmp_path: Path
) -> None:
    """Starts on some ranks, of which the last is asked to stop after some blocks of its own; then one to the end.

    `minutes` 0: what is done is kept between any two rounds, and the ranks go on.
    """
    folder = tmp_path / "kept"
    shutil.rmtree(tmp_path, ignore_errors=True)
    tmp_path.mkdir()
    clean, _ = evaluation(alone(config), score, part, config, folder)
    ran = 0
    for number, (world, stop_after) in enumerate([*starts, (3, None)]):

        def work(group: Group, world: int = world, stop_after: int | None = stop_after) -> Any:
            mine = stop_after if group.place.rank == world - 1 else None
            return evaluation(group, score, part, config, folder, mine, minutes)

        found = on_ranks(world, tmp_path / str(number), work, config)
        ran += sum(calls for _, calls in found)
        stopped = {str(outputs) == "stopped" for outputs, _ in found}
        assert len(stopped) == 1, "all ranks alike"
        if stopped == {False}:
            break
    assert ran == BLOCKS, "no block was run twice"
    assert_same(found[0][0], clean)
    assert all(outputs is None for outputs, _ in found[1:])


@pytest.mark.parametrize("score", [Pairs, Counts])
def test_a_process_that_dies_goes_on_from_what_was_kept_by_time(
    score: Score, part: Part, config: Config, tmp_path: Path
) -> None:
    clean, _ = evaluation(alone(config), score, part, config, tmp_path)

    class Dies(Predict):
        def __call__(self, images_B3SS: torch.Tensor) -> torch.Tensor:
            if self.calls == 6:
                raise MemoryError
            return super().__call__(images_B3SS)

    with pytest.raises(MemoryError):
        evaluation(alone(config), score, part, config, tmp_path, minutes=0, predict=Dies(None))
    assert len(list(tmp_path.iterdir())) == 1, "what was kept before is replaced"
    (tmp_path / f".partial-key-{7:012d}").mkdir()  # the next one, if it was killed while it wrote
    found, calls = evaluation(alone(config), score, part, config, tmp_path)
    assert calls == BLOCKS - 6
    assert_same(found, clean)
    assert [path.name for path in tmp_path.iterdir()] == [f"key-{6:012d}"]


def test_the_newest_of_several_is_taken_and_all_are_discarded(part: Part, config: Config, tmp_path: Path) -> None:
    """As if it was killed after it had kept more, and before it removed what was kept before."""
    for block in (3, 6):
        evaluation(alone(config), Pairs, part, config, tmp_path / str(block), stop_after=block)
        shutil.copytree(tmp_path / str(block) / f"key-{block:012d}", tmp_path / "both" / f"key-{block:012d}")
    unfinished = Unfinished(tmp_path / "both", lambda: "key", alone(config), Vote(alone(config)), NEVER)
    done = unfinished.find()
    assert done is not None
    assert done.blocks == 6
    unfinished.discard()
    assert not (tmp_path / "both").exists()


def test_it_is_due_once_every_so_many_minutes(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    unfinished = Unfinished(tmp_path, lambda: "key", alone(config), Vote(alone(config)), minutes=10)
    asked = []
    for now in range(0, 2000, 100):  # noqa: B007
        asked.append(unfinished.asked() == SAVE)
    assert [100 * number for number, due in enumerate(asked) if due] == [700, 1400]


def test_all_of_it_is_kept_where_other_work_follows(part: Part, config: Config, tmp_path: Path) -> None:
    clean, _ = evaluation(alone(config), Pairs, part, config, tmp_path, to_the_end=True)
    found, calls = evaluation(alone(config), Pairs, part, config, tmp_path, to_the_end=True)
    assert calls == 0
    assert_same(found, clean)
    assert not (tmp_path / "other").exists()
    evaluation(alone(config), Pairs, part, config, tmp_path / "other")
    assert not (tmp_path / "other").exists(), "nothing is written by an evaluation that nobody stops"


@pytest.mark.parametrize("damage", ["cut", "flipped", "lost"])
def test_what_is_damaged_is_said_and_computed_again(
    damage: str, part: Part, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, _ = evaluation(alone(config), Pairs, part, config, tmp_path)
    evaluation(alone(config), Pairs, part, config, tmp_path, stop_after=4)
    file = next(tmp_path.rglob("state.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content if damage == "flipped" else content[:-1])
    if damage == "lost":
        file.unlink()
    found, calls = evaluation(alone(config), Pairs, part, config, tmp_path)
    assert calls == BLOCKS
    assert_same(found, clean)
    assert "computed again" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_place_that_refuses_is_said_and_the_stop_is_a_stop(
    part: Part, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    found, _ = evaluation(alone(config), Pairs, part, config, tmp_path / "file", stop_after=4)
    assert found == "stopped"
    assert "4 of 10 blocks could not be kept" in capsys.readouterr().out
    found, _ = evaluation(alone(config), Pairs, part, config, tmp_path / "file", to_the_end=True)
    assert found != "stopped"
    assert not capsys.readouterr().out, "nothing is lost as yet"
    assert (tmp_path / "file").read_text() == "not a folder"


def test_outputs_of_anything_else_are_not_taken(
    part: Part, tiny_data: Path, tiny_config: MakeConfig, config: Config
) -> None:
    def key(seed: int = 0, part: Part = part, config: Config = config, masks: Any = None, **other: Any) -> str:
        torch.manual_seed(seed)
        what = {"counted": False, "device": CPU, "dtype": torch.float32} | other
        return outputs_key(nn.Linear(2, 3), config, part, masks, **what)

    ids = [part.index.id(n) for n in range(len(part))]
    others = [
        key(seed=1), key(part=Part(part.index, np.arange(5))), key(part=Part(part.index, np.arange(6))),
        key(part=whole(open_index(tiny_data / "train"))), key(config=tiny_config(eval={"batch": 3})),
        key(config=tiny_config(eval={"batch": 2}, model__size=48)), key(masks=evaluation_masks("low", 32, ids)),
        key(masks=evaluation_masks("high", 32, ids)), key(counted=True), key(dtype=torch.bfloat16),
        key(device=torch.device("cuda")),
    ]  # fmt: skip
    assert len({key(), *others}) == 1 + len(others)
    ranks = tiny_config(eval={"batch": 2}, parallel={"engine": "deepspeed", "zero_stage": 3})
    assert key(config=ranks) == key(), "any engine goes on"


def test_another_evaluation_begins_anew(part: Part, config: Config, tmp_path: Path) -> None:
    evaluation(alone(config), Pairs, part, config, tmp_path, stop_after=4)
    _, calls = evaluation(alone(config), Pairs, part, config, tmp_path, key="other")
    assert calls == BLOCKS


def test_broken_images_count_across_the_stop(tiny_config: MakeConfig, tmp_path: Path) -> None:
    for content in prepare_shapes(tmp_path / "root", train=1, val=20, test=1, size=48, seed=4):
        write_index(tmp_path / content.split, content)
    part = whole(open_index(tmp_path / "val"))
    for sample in (1, 17):
        file = part.index.path(sample)
        file.write_bytes(file.read_bytes()[:200])
    once, kept = tiny_config(eval={"batch": 2}, data__broken_budget=1 / 20), tmp_path / "kept"
    evaluation(alone(once), Pairs, part, once, kept, stop_after=4)
    with pytest.raises(UserError, match="found 2 broken images of 20"):
        evaluation(alone(once), Pairs, part, once, kept)
    twice = tiny_config(eval={"batch": 2}, data__broken_budget=2 / 20)
    outputs, _ = evaluation(alone(twice), Pairs, part, twice, kept)
    assert np.flatnonzero(outputs.broken_N).tolist() == [1, 17]


def forwards_counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with every block that is run."""
    real, ran = infer._forwards, []

    def counted(*given: Any) -> Iterator[Any]:
        for forward in real(*given):
            ran.append(1)
            yield forward

    monkeypatch.setattr(infer, "_forwards", counted)
    return ran


def stop_in_block(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A signal that arrives before the `number`-th time that any evaluation of this process asks, from 0."""
    asked = 0

    def in_evaluation() -> str | None:
        nonlocal asked
        asked += 1
        return afterwards()

    def afterwards() -> str | None:
        return "SIGTERM" if asked > number else None

    monkeypatch.setattr(module, "stop_requested", in_evaluation)
    monkeypatch.setattr("masksup.training.train.stop_requested", afterwards)
    monkeypatch.setattr("masksup.saved.score.stop_requested", afterwards)


KINDS: dict[str, dict[str, Any]] = {
    "kept": {}, "counted": {"eval__exact_pairs": 0}, "frozen": {"model__frozen": True, "eval__masked": []}
}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(
    tiny_data: Path, tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Config, int]]:
    """A run of some kind that nothing disturbs, its configuration, and how many blocks its evaluations run.

    Evaluations have 3 blocks: two of epochs; of the last and the best weights on eval and test, whole and masked.
    """

    @functools.cache
    def made(kind: str) -> tuple[Path, Config, int]:
        fixed = {"data__test": str(tiny_data / "test"), "eval": {"batch": 8, "masked": ["low"]}}
        config, run = tiny_config(**fixed, **KINDS[kind]), tmp_path_factory.mktemp(kind) / "run"
        with pytest.MonkeyPatch.context() as patch:
            ran = forwards_counted(patch)
            assert train(config, run) == 0
        return run, config, len(ran)

    return made


@pytest.fixture
def clean(undisturbed: Callable[[str], tuple[Path, Config, int]]) -> Path:
    return undisturbed("kept")[0]


@pytest.mark.parametrize(
    ("kind", "block"),
    [
        *[("kept", 21), ("counted", 5), ("frozen", 7)],
        *[pytest.param("kept", block, marks=pytest.mark.slow) for block in (1, 5, 9, 13, 17, 25)],
        pytest.param("counted", 11, marks=pytest.mark.slow),
        *[pytest.param(kind, 4, marks=pytest.mark.slow) for kind in ("counted", "frozen")],
    ],
)
def test_a_run_stopped_in_any_evaluation_scores_no_block_twice(
    kind: str, block: int, undisturbed: Callable[[str], tuple[Path, Config, int]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    clean, config, blocks = undisturbed(kind)
    result = json.loads((clean / "result.json").read_text())
    of_weights = 6 if kind == "frozen" else 12  # eval and test, and both masked
    scored = of_weights * (1 + (result["best"]["step"] != result["last"]["step"]))
    assert blocks == 2 * 3 + scored - 3, "the last weights are run on eval once, for their epoch and for the end"
    run, block = tmp_path / "run", block % blocks
    ran = forwards_counted(monkeypatch)
    with monkeypatch.context() as patch:
        stop_in_block(patch, block)
        assert train(config, run) == STOPPED
        assert len(ran) == block
        assert not (run / "result.json").exists()
    assert train(config, run) == 0
    assert len(ran) == blocks
    assert_same_run(run, clean)
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, clean)]
    for which in ("best", "last"):
        for name in ("eval", "test"):
            ours, theirs = (result[which][name] for result in results)
            assert without_names(ours) == without_names(theirs)
    assert not (run / "unfinished").exists()


def dying_at(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends without a signal in this block of its evaluations."""
    real, ran = infer._forwards, iter(range(10**6))

    def dying(*given: Any) -> Iterator[Any]:
        for forward in real(*given):
            if next(ran) == block:
                raise MemoryError
            yield forward

    monkeypatch.setattr(infer, "_forwards", dying)


@pytest.mark.parametrize(("minutes", "kept"), [(1e-9, 2), (10, 0)])
def test_what_is_done_is_kept_as_often_as_checkpoints(
    minutes: float, kept: int, tiny_config: MakeConfig, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(eval__batch=8, checkpoint={"every_minutes": minutes}, epochs=1)
    with monkeypatch.context() as patch:
        dying_at(2, patch)
        with pytest.raises(MemoryError):
            train(config, tmp_path / "run")
    names = [path.name.partition("-")[2] for path in (tmp_path / "run").glob("unfinished/*")]
    assert names == [f"{kept:012d}"] * bool(kept)
    assert train(config, tmp_path / "run") == 0
    with monkeypatch.context() as patch:
        dying_at(2, patch)
        assert main(["eval", str(tmp_path / "run")]) == 2
    names = [path.name.partition("-")[2] for path in (tmp_path / "run").glob("unfinished-eval/*")]
    assert names == [f"{kept:012d}"] * bool(kept)


def without_names(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores without what names the run and the hash of its checkpoint, in which times stand."""
    masked = {level: without_names(under) for level, under in scores.get("masked", {}).items()}
    named = {"checkpoint", "checkpoint_sha256"}
    protocol = {key: value for key, value in scores["protocol"].items() if key not in named}
    return {**scores, "protocol": protocol, "masked": masked}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *[("kept", ["--masked", "low"]), ("counted", [])],
        *[pytest.param(*case, marks=pytest.mark.slow) for case in (
            ("kept", []), ("kept", ["--bootstrap", "0"]), ("counted", ["--masked", "low"]),
            ("counted", ["--bootstrap", "0"]),
        )],
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)  # fmt: skip
def test_masksup_eval_goes_on_where_it_was_stopped(
    kind: str, options: list[str], undisturbed: Callable[[str], tuple[Path, Config, int]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = undisturbed(kind)[0]
    command = ["eval", str(run), *options, "--json", str(tmp_path / "scores.json")]
    assert main(command) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["protocol"]["ap_computed"] == (COUNTED if kind == "counted" else EXACT)
    (tmp_path / "scores.json").unlink()
    ran = forwards_counted(monkeypatch)
    with monkeypatch.context() as patch:
        stop_in_block(patch, 2)
        assert main(command) == STOPPED
    assert not (tmp_path / "scores.json").exists()
    told = capsys.readouterr().out
    assert "2 of 3 blocks are kept" in told
    assert "stopped by SIGTERM; the same command goes on from here" in told
    assert main(command) == 0
    assert len(ran) == 3
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    assert not list(run.glob("unfinished*")), "apart from what the run itself keeps"


def test_scores_that_cannot_be_written_lose_no_outputs(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(file: Path, **_: Any) -> None:
        file.write_bytes(b"some of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    ran = forwards_counted(monkeypatch)
    command = ["eval", str(clean), "--predictions", str(tmp_path / "scores.npz")]
    with monkeypatch.context() as patch:
        patch.setattr("masksup.output.scores.np.savez", full)
        assert main(command) == 2
    assert capsys.readouterr().err == f"masksup: {tmp_path / 'scores.npz'}: No space left on device\n"
    assert not list(tmp_path.iterdir())
    assert main(command) == 0
    assert len(ran) == 3
    assert len(np.load(tmp_path / "scores.npz")["ids"]) == 20


def test_a_reader_that_leaves_takes_no_files_along(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`masksup eval RUN --json FILE | head`: what is written is written before anything is shown."""
    monkeypatch.setattr("masksup.output.scores.show_scores", lambda *_: (_ for _ in ()).throw(BrokenPipeError()))
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert main(["eval", str(clean), "--json", str(tmp_path / "scores.json")]) == READER_LEFT
    assert json.loads((tmp_path / "scores.json").read_text())["images"] == 20
    assert not (clean / "unfinished-eval").exists()


def test_archives_and_other_checkpoints_keep_it_beside_themselves(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, checkpoint = tmp_path / "mine.zip", tmp_path / "checkpoints" / "mine"
    assert main(["pack", str(clean), "--out", str(archive)]) == 0
    shutil.copytree(clean / "checkpoints" / "best", checkpoint)
    data = str(open_trained(clean).config.data.test)
    monkeypatch.chdir(checkpoint)
    for model, beside in ((archive, tmp_path / "mine.zip.unfinished"), (Path(), checkpoint.parent / "mine.unfinished")):
        ran = forwards_counted(monkeypatch)
        with monkeypatch.context() as patch:
            stop_in_block(patch, 2)
            assert main(["eval", str(model), "--data", data]) == STOPPED
        assert list(beside.iterdir())
        assert main(["eval", str(model), "--data", data]) == 0
        assert len(ran) == 3
        assert not beside.exists()
    archive.with_name("mine.zip.unfinished").write_text("in the way")
    with monkeypatch.context() as patch:
        stop_in_block(patch, 2)
        assert main(["eval", str(archive)]) == STOPPED
    assert "stopped by SIGTERM; the same command begins from the first image" in capsys.readouterr().out
