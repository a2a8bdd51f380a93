"""Batches that depend on the plan alone: the same for any number of workers and from any step."""

import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loading import SETTINGS, equal, plan, train_set, truncate, write_images
from PIL import Image

from masksup.base.place import cpus_of_rank
from masksup.config.schema import Augment, Data
from masksup.data.dataset import EvalDataset
from masksup.data.index import Index
from masksup.data.loader import _refuse_dead, eval_loader, train_loader, workers_of
from masksup.data.shards import digest_of
from masksup.data.transforms import eval_transform
from masksup.data.write_index import IndexContent, write_index
from masksup.errors import UserError

# torch remarks on more workers than cores; torchvision on the future of its decoder.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore::DeprecationWarning")

LABELS = (np.arange(23 * 3).reshape(23, 3) % 3 - 1).astype(np.int8)


def make_index(root: Path, folder: Path, crops: bool = False) -> Index:
    names, n = write_images(root, 23), 23
    crop = np.tile(np.array([[-5, 4, 30, 60]], np.float32), (n, 1)) if crops else np.zeros((0, 4), np.float32)
    content = IndexContent(
        root=root, name="test", split="train", classes=("a", "b", "c"), exif=False, note="", image_names=names,
        ids=[name[:-4] for name in names], sizes_I2=np.tile(np.array([[64, 48]], np.int32), (n, 1)),
        file_hash_I16=np.array([list(digest_of((root / name).read_bytes())) for name in names], np.uint8),
        sample_image_N=np.arange(n, dtype=np.int32), crop_N4=crop,
        labels_NC=LABELS, box_start_N1=np.zeros(n + 1, np.int64), boxes_M4=np.zeros((0, 4), np.float32),
        box_class_M=np.zeros(0, np.int16), box_share_M=np.zeros(0, np.float32), box_flags_M=np.zeros(0, np.uint8),
    )  # fmt: skip
    return write_index(folder, content)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    (tmp_path / "images").mkdir()
    return make_index(tmp_path / "images", tmp_path / "index")


@pytest.mark.parametrize("last", ["continue", "partial", "drop"])
def test_workers_change_nothing(index: Index, last: Any) -> None:
    p = plan(last_batch=last)
    reference = list(train_loader(train_set(index, p), 0, 0))
    assert len(reference) == p.total_steps
    for step, batches in enumerate(reference):
        assert [b["position"].tolist() for b in batches] == [m.tolist() for m in p.micro_batches(step)]
    for workers, kind in ((1, "processes"), (4, "processes"), (1, "threads"), (4, "threads")):
        found = list(train_loader(train_set(index, p), 0, workers, kind=kind))
        assert equal(reference, found), (workers, kind)


@pytest.mark.parametrize("last", ["continue", "partial"])
def test_any_start_step_continues_the_same_run(index: Index, last: Any) -> None:
    p = plan(last_batch=last)
    reference = list(train_loader(train_set(index, p), 0, 0))
    for start in range(p.total_steps + 1):
        assert equal(reference[start:], list(train_loader(train_set(index, p), start, 0)))
    assert equal(reference[3:], list(train_loader(train_set(index, p), 3, 2)))


def test_another_seed_is_another_run_and_another_epoch_another_view(index: Index) -> None:
    p, other = plan(), plan(seed=2)
    assert not equal(list(train_loader(train_set(index, p), 0, 0)), list(train_loader(train_set(index, other), 0, 0)))
    dataset = train_set(index, p)
    views = {int(dataset[k]["sample"]): dataset[k]["image"] for k in range(23)}
    again = {int(dataset[k]["sample"]): dataset[k]["image"] for k in range(23, 46)}
    assert views.keys() == again.keys() == set(range(23))
    assert sum(torch.equal(views[s], again[s]) for s in views) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_no_global_generator_is_consumed(index: Index, workers: int) -> None:
    before = random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state()
    p = plan()
    assert len(list(train_loader(train_set(index, p), 0, workers))) == p.total_steps
    assert list(eval_loader(EvalDataset(index, eval_transform(SETTINGS, 32)), 5, workers))
    assert random.getstate() == before[0]
    assert pickle.dumps(np.random.get_state()) == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("ignored", ["ignore", "negative", "positive"])
def test_batches_hold_the_right_labels_in_the_right_form(index: Index, ignored: Any) -> None:
    p = plan()
    meaning = {"ignore": -1, "negative": 0, "positive": 1}[ignored]
    for batches in train_loader(train_set(index, p, ignored=ignored), 0, 0):
        for batch in batches:
            assert batch["image"].shape == (4, 3, 32, 32)
            assert batch["image"].dtype == torch.uint8
            assert batch["image"].is_contiguous(memory_format=torch.channels_last)
            expected = LABELS[p.samples_at(batch["position"].numpy())]
            assert batch["target"].dtype == torch.int8
            assert np.array_equal(batch["target"].numpy(), np.where(expected == -1, meaning, expected))


def test_evaluation_blocks_are_full_and_padding_is_marked(index: Index) -> None:
    dataset = EvalDataset(index, eval_transform(SETTINGS, 32))
    blocks = list(eval_loader(dataset, 5, 0))
    assert [len(b["image"]) for b in blocks] == [5] * 5
    assert torch.cat([b["sample"][b["valid"]] for b in blocks]).tolist() == list(range(23))
    assert blocks[-1]["valid"].tolist() == [True, True, True, False, False]
    assert torch.equal(blocks[-1]["image"][3], dataset[22]["image"])
    assert torch.equal(torch.cat([b["target"][b["valid"]] for b in blocks]), torch.from_numpy(LABELS))
    assert equal([blocks], [list(eval_loader(dataset, 5, 3))])


def test_members_restrict_both_data_sets(index: Index) -> None:
    members = np.array([2, 3, 5, 7, 11, 13], np.int64)
    p = plan(samples=6, global_batch=3, micro_batch=3, epochs=1)
    steps = list(train_loader(train_set(index, p, members=members), 0, 0))
    assert sorted(torch.cat([b["sample"] for s in steps for b in s]).tolist()) == members.tolist()
    blocks = list(eval_loader(EvalDataset(index, eval_transform(SETTINGS, 32), members=members), 4, 0))
    assert torch.cat([b["sample"][b["valid"]] for b in blocks]).tolist() == members.tolist()
    expected = torch.from_numpy(LABELS[members])
    assert torch.equal(torch.cat([b["target"][b["valid"]] for b in blocks]), expected)


def test_person_samples_are_cut_out_first(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    index = make_index(tmp_path / "images", tmp_path / "index", crops=True)
    dataset = EvalDataset(index, eval_transform(Augment(), 56))
    person = Image.open(index.path(4)).crop((-5, 4, 30, 60)).resize((56, 56), Image.Resampling.BILINEAR)
    difference = dataset[4]["image"].permute(1, 2, 0).numpy().astype(int) - np.asarray(person)
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize(("workers", "kind"), [(0, "processes"), (2, "processes"), (2, "threads")])
def test_a_broken_image_is_one_line_from_any_process(index: Index, workers: int, kind: Any) -> None:
    truncate(index.path(9))
    p = plan()
    with pytest.raises(UserError) as raised:
        list(train_loader(train_set(index, p), 0, workers, kind=kind))
    assert str(raised.value).startswith(f"{index.path(9)}: found other bytes than when the index")
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"009\.jpg: found other bytes"):
        list(eval_loader(EvalDataset(index, eval_transform(SETTINGS, 32)), 5, workers, kind=kind))


def test_a_missing_image_is_never_tolerated(index: Index) -> None:
    index.path(9).unlink()
    with pytest.raises(UserError, match=r"009\.jpg: found no such file"):
        list(eval_loader(EvalDataset(index, eval_transform(SETTINGS, 32), broken_budget=0.5), 5, 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_within_the_budget_broken_images_are_grey_marked_and_ignored(index: Index, workers: int) -> None:
    truncate(index.path(9))
    p = plan()
    seen = []
    for batches in train_loader(train_set(index, p, broken_budget=0.05, ignored="negative"), 0, workers):
        for batch in batches:
            assert torch.equal(batch["broken"], batch["sample"] == 9)
            seen += batch["sample"][batch["broken"]].tolist()
            assert (batch["image"][batch["broken"]] == 128).all()
            assert (batch["target"][batch["broken"]] == -1).all()
            assert (batch["target"][~batch["broken"]] != -1).all()
    assert seen == [9, 9]


class _SignalProbe:
    """Stands where an image transform stands and reports the worker's signal state as pixels."""

    size = 2

    def __call__(self, *_: Any) -> tuple[torch.Tensor, None]:
        watched = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
        ignored = [signal.getsignal(number) == signal.SIG_IGN for number in watched]
        values = [*ignored, torch.get_num_threads() == 1, os.getpid() != _MAIN]
        return torch.tensor([*values, *[False] * 7], dtype=torch.uint8).reshape(3, 2, 2), None


_MAIN = os.getpid()


@pytest.fixture
def trainer_signals() -> Iterator[None]:
    watched = (signal.SIGTERM, signal.SIGUSR2)
    before = [signal.signal(s, lambda *_: None) for s in watched]
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    yield
    signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
    for s, handler in zip(watched, before):
        signal.signal(s, handler)


@pytest.mark.usefixtures("trainer_signals")
def test_workers_leave_signals_to_the_trainer_and_have_one_thread(index: Index) -> None:
    dataset = EvalDataset(index, _SignalProbe())  # type: ignore[arg-type]
    block = next(eval_loader(dataset, 2, 1))
    assert block["image"][0].flatten()[:5].tolist() == [1] * 5


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


def test_an_abandoned_loader_leaves_no_process(index: Index) -> None:
    p, before = plan(epochs=50), children()
    loader = train_loader(train_set(index, p), 0, 2)
    next(loader)
    workers = children() - before
    assert len(workers) >= 2
    loader.close()  # type: ignore[attr-defined]
    del loader
    assert not workers & children()


def test_threads_have_one_thread_of_torch_each_and_are_gone_when_the_loader_is(index: Index) -> None:
    before, own = set(threading.enumerate()), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        blocks = eval_loader(EvalDataset(index, _SignalProbe()), 2, 2, kind="threads")  # type: ignore[arg-type]
        assert next(blocks)["image"][0].flatten()[3] == 1
        assert torch.get_num_threads() == 3
        newer: list[int] = []
        thread = threading.Thread(target=lambda: newer.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert newer == [3], "threads of others keep theirs"
        assert len(set(threading.enumerate()) - before) == 2
        blocks.close()  # type: ignore[attr-defined]
        assert set(threading.enumerate()) == before
    finally:
        torch.set_num_threads(own)


def test_auto_takes_the_cpus_of_the_rank_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12))
    four = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}
    srun = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_TASKS_PER_NODE": "2"}
    assert cpus_of_rank({}) == 12
    assert cpus_of_rank(four) == 3
    assert cpus_of_rank(srun) == 6, "srun did not say, so the tasks share"
    assert cpus_of_rank({**srun, "SLURM_CPUS_PER_TASK": "8"}) == 8
    assert cpus_of_rank({**srun, "SLURM_CPUS_PER_TASK": "99"}) == 12
    assert workers_of(Data(train="-")) == 11
    assert workers_of(Data(train="-", workers=0)) == 0
    for cpus, workers in ((1, 1), (64, 16)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cpus=cpus: range(cpus))
        assert workers_of(Data(train="-")) == workers


def test_a_loader_that_fails_leaves_no_process_while_its_error_is_held(index: Index) -> None:
    truncate(index.path(9))
    p, before = plan(), children()
    for batches in (
        train_loader(train_set(index, p), 0, 2), eval_loader(EvalDataset(index, eval_transform(SETTINGS, 32)), 5, 2)
    ):  # fmt: skip
        with pytest.raises(UserError) as raised:
            list(batches)
        assert not children() - before, raised.value


def _let_go_but_live() -> None:
    """What a dying process is for a moment: all that it held is closed, and it cannot be waited for yet."""
    os.closerange(3, 4096)
    time.sleep(60)


def test_a_process_that_is_just_dying_is_named() -> None:
    def broken() -> Iterator[None]:
        raise ConnectionResetError
        yield

    process = multiprocessing.get_context("fork").Process(target=_let_go_but_live)
    process.start()
    try:
        with pytest.raises(RuntimeError, match=rf"\(pid\(s\) {process.pid}\) exited"):
            list(_refuse_dead(broken(), [process]))
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
