"""One run in one process: resuming, scoring, finishing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compare import assert_same_run, final_state, numbers

from masksup.config.schema import Config
from masksup.errors import UserError
from masksup.exits import STOPPED
from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint
from masksup.training.train import train

MakeConfig = Callable[..., Config]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A signal that arrives when `step` steps are done (checked once a step, and while scoring)."""
    import masksup.training.train as module

    seen = {"calls": 0}

    def stop_requested() -> str | None:
        seen["calls"] += 1
        return "SIGTERM" if seen["calls"] >= step else None

    monkeypatch.setattr(module, "stop_requested", stop_requested)


@pytest.fixture(scope="module")
def clean_run(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> Path:
    run = tmp_path_factory.mktemp("clean") / "run"
    torch.set_num_threads(1)
    assert train(tiny_config(), run) == 0
    return run


@pytest.mark.parametrize(
    "step", [pytest.param(k, marks=[] if k in (1, 4, 6) else pytest.mark.slow) for k in range(1, 7)]
)
def test_stopped_after_any_step_and_resumed_is_bit_equal(
    step: int, clean_run: Path, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        assert train(tiny_config(), tmp_path) == STOPPED
    assert not (tmp_path / "result.json").exists()
    assert read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[0]).meta["step"] == step
    assert train(tiny_config(), tmp_path) == 0
    assert_same_run(tmp_path, clean_run)


def test_stopped_twice_with_workers_and_another_save_rhythm_is_bit_equal(
    clean_run: Path, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(data__workers=2, checkpoint={"every_steps": 1})
    for loader in ("processes", "threads"):
        with monkeypatch.context() as patch:
            stop_after(patch, 2)
            assert (
                train(tiny_config(data__workers=2, data__loader=loader, checkpoint={"every_steps": 1}), tmp_path)
                == STOPPED
            )
    assert train(config, tmp_path) == 0
    assert_same_run(tmp_path, clean_run)


@pytest.mark.parametrize(
    "overrides",
    [
        {"optim": {"name": "sgd", "lr": 0.05, "clip": 1.0, "nesterov": True}},
        {"optim": {"name": "adam", "lr": 0.003}, "schedule": {"name": "onecycle"}},
        {"precision": {"threads": 1, "dtype": "bf16"}},
        {"precision": {"threads": 1, "dtype": "fp16"}},
        {"model__backbone": "test_vit", "model__backbone_options": {"drop_path_rate": 0.2}},
        {"model__frozen": True},
        {"data__last_batch": "partial"},
        {"data__last_batch": "drop", "data__balance": "class"},
        {"data__eval": None, "data__folds": 3, "data__fold": 1},
    ],
    ids=str,
)
def test_resume_is_bit_equal_for(
    overrides: dict[str, object], tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(**overrides)
    assert train(config, tmp_path / "clean") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert train(config, tmp_path / "cut") == STOPPED
    assert train(config, tmp_path / "cut") == 0
    assert_same_run(tmp_path / "cut", tmp_path / "clean")


def test_other_seed_gives_another_run(clean_run: Path, tiny_config: MakeConfig, tmp_path: Path) -> None:
    assert train(tiny_config(seed=6), tmp_path) == 0
    ours, theirs = final_state(tmp_path), final_state(clean_run)
    assert not any(torch.equal(ours[name], theirs[name]) for name in ours if name.startswith("model/head."))


def test_scoring_and_saving_do_not_change_what_is_trained(
    clean_run: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    assert train(tiny_config(eval={"every_epochs": 0.4}, checkpoint={"every_steps": 1, "keep": 3}), tmp_path) == 0
    ours, theirs = final_state(tmp_path), final_state(clean_run)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_micro_batches_give_the_gradient_of_the_whole_batch(tiny_config: MakeConfig, tmp_path: Path) -> None:
    # A layer-norm network without dropout and no ignored pair: only there is one batch of 16 the same as two of 8.
    fixed = {
        "data__ignored": "negative",
        "model": {"backbone": "test_vit", "size": 32},
        "ema": {"decay": 0.0},
        "epochs": 1,
    }
    for micro in (8, 16):
        assert train(tiny_config(**fixed, batch={"global": 16, "micro": micro}), tmp_path / str(micro)) == 0
    losses = [[row["loss"] for row in numbers(tmp_path / m) if row["kind"] == "train"] for m in ("8", "16")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_finished_run_does_nothing_more(clean_run: Path, tiny_config: MakeConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in clean_run.rglob("*") if "checkpoints" in str(path)}
    assert train(tiny_config(), clean_run) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_result_names_protocol_and_reports_best_and_last(clean_run: Path) -> None:
    result = json.loads((clean_run / "result.json").read_text())
    assert {"best", "last"} <= result.keys()
    best = max(result["history"], key=lambda row: row["mAP"])
    assert result["best"]["step"] == best["step"]
    assert result["best"]["eval"]["mAP"] == pytest.approx(best["mAP"], abs=1e-9)
    assert result["last"]["step"] == result["steps"]
    protocol = result["best"]["eval"]["protocol"]
    for key in ("ap_rule", "ignored_in_ap", "weights", "checkpoint_sha256", "index", "resolution", "data", "threshold"):
        assert protocol[key] is not None, key
    assert protocol["weights"] == "ema"
    assert "synthetic" in protocol["data"]


def test_another_configuration_is_refused_with_the_difference(clean_run: Path, tiny_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"optim\.lr: 0\.003 -> 0\.1"):
        train(tiny_config(optim__lr=0.1), clean_run)


def test_folder_that_is_no_run_is_refused(tiny_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="not a run"):
        train(tiny_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_leak_between_training_and_scoring_is_refused(tiny_config: MakeConfig, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.eval: 50 of 50 samples .* data\.allow_leak"):
        train(tiny_config(data__eval=str(tiny_data / "train")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_gradient_that_is_not_finite_is_skipped_and_then_stops_the_run(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from masksup.losses.bce import BinaryCrossEntropy

    forward = BinaryCrossEntropy.forward
    monkeypatch.setattr(BinaryCrossEntropy, "forward", lambda *a: forward(*a) * float("nan"))
    config = tiny_config(optim={"name": "adamw", "lr": 0.003, "max_skipped": 3}, checkpoint={"every_steps": 1})
    with pytest.raises(UserError, match=r"3 steps in a row up to step 3 .* last samples: \d+"):
        train(config, tmp_path)
    state = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[0])
    assert state.meta["skipped"] == 2
    assert all(torch.isfinite(value).all() for value in state.tensors.values() if value.is_floating_point())
    assert not any(name.startswith("optim/exp_avg/") and value.any() for name, value in state.tensors.items())


def test_starting_from_another_run_takes_backbone_and_head(
    clean_run: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = tiny_config(model__weights=str(clean_run), epochs=0.1, schedule={"name": "constant"}, optim__lr=1e-12)
    assert train(config, tmp_path) == 0
    best = json.loads((clean_run / "result.json").read_text())["best"]
    source = read_checkpoint(clean_run / "checkpoints" / best["checkpoint"]).part("ema")
    ours = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[0]).part("model")
    parameters = [name for name in ours if name.endswith("weight")]
    assert {name.split(".")[0] for name in parameters} == {"backbone", "head"}
    for name in parameters:
        assert torch.allclose(ours[name], source[name], atol=1e-6), name


def test_full_disk_raises_an_alarm_and_training_goes_on(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import masksup.runtime.checkpoint as checkpoint

    save_file, calls = checkpoint.save_file, []

    def sometimes_full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        calls.append(path)
        if 2 <= len(calls) <= 3:
            raise OSError(28, "No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", sometimes_full)
    assert train(tiny_config(checkpoint={"every_steps": 1}), tmp_path) == 0
    assert "ALARM" in capsys.readouterr().out
    assert not list((tmp_path / "checkpoints").glob(".partial-step*"))
    assert list_checkpoints(tmp_path / "checkpoints")


def test_a_run_whose_last_weights_cannot_be_saved_is_not_finished(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import masksup.runtime.checkpoint as checkpoint

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(UserError, match=r"step-000000007-a01: could not be saved: .*No space left"):
            train(tiny_config(), tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert train(tiny_config(), tmp_path) == 0


def test_a_damaged_checkpoint_is_set_aside_and_two_good_ones_stay(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(checkpoint={"every_steps": 1, "keep": 2}, data__eval=None)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert train(config, tmp_path) == STOPPED
    newest = list_checkpoints(tmp_path / "checkpoints")[0]
    (newest / "state.safetensors").write_bytes(b"junk")
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert train(config, tmp_path) == STOPPED
    left = list_checkpoints(tmp_path / "checkpoints")
    assert len(left) == 2
    assert [read_checkpoint(path).meta["step"] for path in left] == [5, 4]
    assert (tmp_path / "checkpoints" / f"damaged-{newest.name}").is_dir()


def test_broken_images_within_the_budget_are_each_named_once_and_left_out(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from masksup.data.shapes import prepare_shapes
    from masksup.data.write_index import write_index

    for content in prepare_shapes(tmp_path / "root", train=30, val=10, test=5, size=48, seed=4):
        write_index(tmp_path / content.split, content)
    broken = sorted((tmp_path / "root").rglob("*.jpg"))[2]
    broken.write_bytes(broken.read_bytes()[:200])
    places = {"data__train": str(tmp_path / "train"), "data__eval": str(tmp_path / "val")}
    with pytest.raises(UserError, match=broken.name):
        train(tiny_config(**places), tmp_path / "strict")
    assert train(tiny_config(**places, data__broken_budget=0.1, epochs=3), tmp_path / "run") == 0
    assert capsys.readouterr().out.count(f"{broken.name}: broken image") == 1


def test_broken_images_of_all_starts_count_together_and_each_once(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from masksup.data.index import open_index
    from masksup.data.shapes import prepare_shapes
    from masksup.data.split import make_plan, open_source
    from masksup.data.write_index import write_index

    for content in prepare_shapes(tmp_path / "root", train=30, val=10, test=5, size=48, seed=4):
        write_index(tmp_path / content.split, content)
    index = open_index(tmp_path / "train")
    budget = {"data__train": str(tmp_path / "train"), "data__eval": None, "data__broken_budget": 1.9 / 30, "epochs": 3}
    config = tiny_config(**budget)
    plan = make_plan(config, open_source(config.data, config.seed).train)
    sample = [int(plan.samples_at(plan.positions(step))[5]) for step in (0, 1)]  # steps 0 and 1 are an epoch
    for run, count in (("one", 1), ("two", 2)):
        broken = index.path(sample[count - 1])
        broken.write_bytes(broken.read_bytes()[:200])
        with monkeypatch.context() as patch:
            stop_after(patch, 1)
            assert train(config, tmp_path / run) == STOPPED
        if count == 1:
            assert train(config, tmp_path / run) == 0
            state = read_checkpoint(list_checkpoints(tmp_path / run / "checkpoints")[0])
            assert state.meta["at"]["broken"] == {"train": sample[:1]}
            assert (tmp_path / run / "logs" / "rank0.log").read_text().count("broken image") == 1
        else:
            with pytest.raises(UserError, match=r"found 2 broken images of 30, .*\(data\.broken_budget\)"):
                train(config, tmp_path / run)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_network_trains_and_resumes_bit_equal(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(precision={"threads": 1, "compile": True})
    assert train(config, tmp_path / "clean") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert train(config, tmp_path / "cut") == STOPPED
    assert train(config, tmp_path / "cut") == 0
    assert_same_run(tmp_path / "cut", tmp_path / "clean")
