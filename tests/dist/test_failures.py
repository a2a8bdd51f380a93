"""Kills, signals, stuck ranks, bad gradients: the job ends or goes on as one."""

import json
import os
import random
import re
import signal
import time
from contextlib import suppress
from operator import mul
from pathlib import Path

import pytest
from compare import assert_same_run
from forked import all_end
from ranks import Launcher

from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint
from masksup.runtime.metrics_rows import read_rows

STEP_SECONDS = 6.0  # what a step may take where a rank is to be found stuck; a healthy one takes 0.05
KILLS = int(os.environ.get("MASKSUP_DIST_KILLS", "4"))


def rows(run: Path) -> int:
    return len(read_rows(run / "metrics.jsonl"))


SHORT = "adamw, batch norm, EMA"
TRAININGS: dict[str, dict[str, object]] = {
    SHORT: {},
    "sgd, fp16, MaskSup, stochastic depth": {
        "optim": {"name": "sgd", "lr": 0.01, "momentum": 0.9}, "precision__dtype": "fp16",
        "model": {"backbone": "test_vit", "size": 32, "backbone_options": {"drop_path_rate": 0.2}},
        "method": {"name": "masksup", "bank": 8},
    },
    "bf16, MCAR, checkpointing": {
        "precision__dtype": "bf16", "method": {"name": "mcar", "top": 2}, "model__grad_checkpointing": True
    },
    "OASS and its teacher": {"method": {"name": "oass", "patches": "teacher"}, "model__size": 64},
}  # fmt: skip


@pytest.mark.timeout(300 + 60 * KILLS)
@pytest.mark.parametrize(
    "what", [SHORT, *(pytest.param(name, marks=pytest.mark.slow) for name in TRAININGS if name != SHORT)]
)
def test_r1_kills_of_a_random_rank_of_any_number_end_with_the_bits_of_one_process(
    what: str, job: Launcher, write_config, tmp_path: Path
) -> None:
    config = write_config(epochs=8, checkpoint={"every_steps": 2}, data__last_batch="partial", **TRAININGS[what])
    job.to_the_end(1, config, tmp_path / "clean")
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    draw, kills, runs = random.Random(seed), 0, 0
    while kills < KILLS:  # a run that came to its end makes room for another
        run = tmp_path / f"run{runs}"
        while kills < KILLS and not (run / "result.json").exists():
            kills += _killed(job, draw.choice((1, 2, 3, 4)), config, run, draw)
        job.to_the_end(draw.choice((2, 3)), config, run)
        assert_same_run(run, tmp_path / "clean")
        assert not list((run / "checkpoints").glob(".partial-*"))
        runs += 1
    print(f"{kills} kills in {runs} runs")


def _killed(job: Launcher, world: int, config: Path, run: Path, draw: random.Random) -> bool:
    """Start the run and kill one of its ranks. False if that rank had ended before."""
    before, extra = rows(run), draw.randrange(0, 5)
    ranks = job.train(world, config, run)
    ranks.until(lambda: rows(run) > before + extra)
    time.sleep(draw.uniform(0, 0.05))
    victim = draw.randrange(world)
    with suppress(ProcessLookupError):
        ranks.signal(victim, signal.SIGKILL)
    codes = ranks.wait()
    assert codes[victim] in (-signal.SIGKILL, 0)
    assert None not in codes
    return codes[victim] == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["starting", "stepping", "scoring", "saving"])
def test_r5_a_signal_to_any_one_rank_stops_all_at_the_same_step(
    moment: str, job: Launcher, write_config, tmp_path: Path
) -> None:
    slow_score = (
        "import masksup.evaluation.forward as m, time\nr = m._forwards\n"
        "def f(*a):\n    for x in r(*a):\n        time.sleep(0.3)\n        yield x\nm._forwards = f\n"
    )
    slow_save = (
        "import masksup.runtime.checkpoint as m, time\nr = m.save_file\n"
        "def f(*a):\n    time.sleep(1)\n    r(*a)\nm.save_file = f\n"
    )
    probe = {"scoring": slow_score, "saving": slow_save}.get(moment, "")
    config = write_config(
        epochs=30, eval={"batch": 2, "every_epochs": 1}, checkpoint={"every_steps": 1 if moment == "saving" else 0}
    )
    ranks = job.train(3, config, tmp_path / "run", probe=probe)
    run = tmp_path / "run"
    if moment == "starting":
        ranks.until(lambda: (run / "logs" / "rank0.log").exists())
    else:
        # Four steps are an epoch and a quarter: then the scoring of the first epoch is under way.
        ranks.until(lambda: rows(run) >= (4 if moment == "scoring" else 2))
        time.sleep(0.5 if moment == "scoring" else 0)
    ranks.signal(1, signal.SIGUSR2)
    sent = time.monotonic()
    assert ranks.wait() == [75, 75, 75], ranks.text()
    assert time.monotonic() - sent < 30
    assert "stopped by SIGUSR2 after step" in ranks.outs[0].read_text()
    saved = read_checkpoint(list_checkpoints(run / "checkpoints")[0]).meta["step"]
    told = {
        int(re.findall(r"after step (\d+)", (run / "logs" / f"rank{rank}.log").read_text())[-1]) for rank in range(3)
    }
    assert told == {saved}


@pytest.mark.parametrize("stopped", [1, 0])
def test_r7_a_stopped_rank_ends_the_job_and_is_named(stopped: int, job: Launcher, write_config, tmp_path: Path) -> None:
    """Also where it is rank 0, with which the meeting point of the ranks stops."""
    config = write_config(epochs=100, parallel__step_seconds=STEP_SECONDS, data__eval=None)
    ranks = job.train(3, config, tmp_path / "run")
    ranks.until(lambda: rows(tmp_path / "run") > 4)
    ranks.signal(stopped, signal.SIGSTOP)
    began = time.monotonic()
    codes = ranks.wait()
    assert time.monotonic() - began < STEP_SECONDS + 10
    assert codes == [-signal.SIGKILL if rank == stopped else 1 for rank in range(3)], ranks.text()
    told = rf"rank {stopped} .*did not answer for {STEP_SECONDS:g} s"
    assert len(re.findall(f"masksup: {told}", ranks.text())) == 1, ranks.text()
    # Whoever found it first tells, and shows its stacks; the other one may leave because of the broken connection.
    finder = re.search(rf"{told} while rank (\d)", ranks.text())
    log = (tmp_path / "run" / "logs" / f"rank{finder[1] if finder else 1 - stopped}.log").read_text()
    assert re.search(told, log)
    assert "Current thread" in log
    assert "train.py" in log


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        ("stepping", 10),
        pytest.param("starting", 10, marks=pytest.mark.slow),
        pytest.param("stepping", 45, marks=pytest.mark.slow),
    ],
)
def test_a_job_that_is_suspended_goes_on_when_it_is_let_go_on(
    moment: str, seconds: float, job: Launcher, write_config, tmp_path: Path
) -> None:
    """As by scontrol suspend, for longer than a step, or the start, may take."""
    run = tmp_path / "run"
    go = tmp_path / "go"
    probe = f"import os, time\nwhile os.environ['RANK'] == '2' and not os.path.exists({str(go)!r}): time.sleep(0.1)"
    config = write_config(
        epochs=3 if moment == "starting" else 12, parallel__step_seconds=STEP_SECONDS, data__eval=None,
        parallel__start_seconds=8 if moment == "starting" else 60,
    )  # fmt: skip
    if moment == "stepping":
        go.touch()
    ranks = job.train(3, config, run, probe=probe)
    if moment == "stepping":
        ranks.until(lambda: rows(run) > 4)
    else:
        time.sleep(1)  # rank 0 waits for the last one
    for rank in range(3):
        ranks.signal(rank, signal.SIGSTOP)
    time.sleep(seconds)
    for rank in range(3):
        ranks.signal(rank, signal.SIGCONT)
    go.touch()
    assert ranks.wait() == [0, 0, 0], ranks.text()


def test_a_process_that_is_gone_is_noticed_though_nobody_waits_for_it(
    job: Launcher, write_config, tmp_path: Path
) -> None:
    """As with NCCL, where the others wait on their GPUs and no connection breaks."""
    probe = instead_of(
        "masksup.engine.step", "Stepper.step",
        "time.sleep(1000 * (given[2] == 5 and os.environ['RANK'] != '1'))\n    return real(*given)",
    )  # fmt: skip
    config = write_config(epochs=100, parallel__step_seconds=400, parallel__first_step_seconds=400, data__eval=None)
    ranks = job.train(3, config, tmp_path / "run", probe=probe)
    ranks.until(lambda: rows(tmp_path / "run") > 9)
    ranks.signal(1, signal.SIGKILL)
    assert ranks.wait(90) == [1, -signal.SIGKILL, 1], ranks.text()
    told = re.findall(r"masksup: rank 1 \(pid \d+ on .*\) did not answer for (\d+) s", ranks.text())
    assert len(told) == 1, ranks.text()
    assert int(told[0]) < 20


def instead_of(module: str, name: str, body: str) -> str:
    """A probe: what a rank does in the place of a function, which is `real` and was `given` its arguments."""
    return f"import os, time, {module} as m\nreal = m.{name}\ndef instead(*given):\n    {body}\nm.{name} = instead\n"


def before_fetching(action: str) -> str:
    """A probe: what a rank does before it loads a micro-batch."""
    return instead_of(
        "masksup.data.dataset", "TrainDataset.fetch", f"positions = given[1]\n    {action}\n    return real(*given)"
    )


def test_r7_a_rank_that_hangs_is_named_with_what_it_does(job: Launcher, write_config, tmp_path: Path) -> None:
    probe = before_fetching("if os.environ['RANK'] == '2' and positions[0] > 90: time.sleep(1000)")
    config = write_config(epochs=100, parallel__step_seconds=STEP_SECONDS, parallel__sum="ring")
    ranks = job.train(3, config, tmp_path / "run", probe=probe)
    assert ranks.wait() == [1, 1, 1], ranks.text()
    assert len(re.findall(r"masksup: rank 2 stuck for [\d.]+ s loading step 6", ranks.text())) == 1, ranks.text()
    assert "fetch" in (tmp_path / "run" / "logs" / "rank2.log").read_text()


def test_a_slow_rank_holds_nobody_up_for_good_and_is_named(job: Launcher, write_config, tmp_path: Path) -> None:
    probe = before_fetching("time.sleep(0.2 * (os.environ['RANK'] == '1'))")
    job.to_the_end(2, write_config(), tmp_path / "slow", probe=probe)
    job.to_the_end(2, write_config(), tmp_path / "clean")
    assert_same_run(tmp_path / "slow", tmp_path / "clean")
    lines = [row for row in read_rows(tmp_path / "slow" / "metrics.jsonl") if row["kind"] in ("ranks", "train")]
    for ranks, train in zip(lines[::2], lines[1::2], strict=True):
        assert len(ranks["step_seconds"]) == 2
        assert ranks["data_wait_seconds"][1] >= 0.2
        assert (train["data_wait_straggler"], train["data_wait_seconds"]) == (1.0, ranks["data_wait_seconds"][1])
        assert train["images_per_second"] == pytest.approx(sum(ranks["images_per_second"]))
        assert train["data_wait_share"] == ranks["data_wait_share"][1]


def test_images_a_second_are_the_samples_of_the_steps_by_the_clocks_of_the_ranks(
    job: Launcher, write_config, tmp_path: Path
) -> None:
    """Two epochs of 50 = 4 x 12 + 2 samples, where two of three ranks have none of the last two."""
    config = write_config(data__last_batch="partial", batch={"global": 12, "micro": 4})
    job.to_the_end(3, config, tmp_path / "run")
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] in ("ranks", "train")]
    for samples, ranks, train in zip([12, 12, 12, 12, 2] * 2, rows[::2], rows[1::2], strict=True):
        seconds, speeds = ranks["step_seconds"], ranks["images_per_second"]
        assert sum(map(mul, speeds, seconds)) == pytest.approx(samples)
        assert samples / max(seconds) * 0.999 <= train["images_per_second"] <= samples / min(seconds) * 1.001
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["images_per_second"] == pytest.approx(100 / result["seconds"])


def test_r8_nan_on_one_rank_is_applied_on_none_and_named(job: Launcher, write_config, tmp_path: Path) -> None:
    probe = instead_of(
        "masksup.losses.bce", "BinaryCrossEntropy.forward",
        "return real(*given) * (float('nan') if os.environ['RANK'] == '2' else 1.0)",
    )  # fmt: skip
    config = write_config(
        parallel__sum="ring",  # whose ranks are dealt the micro-batches in turn
        epochs=4,
        optim={"name": "adamw", "lr": 0.003, "max_skipped": 3},
        checkpoint={"every_steps": 1},
    )
    ranks = job.train(3, config, tmp_path / "run", probe=probe)
    assert ranks.wait() == [2, 2, 2], ranks.text()
    told = [line for line in ranks.text().splitlines() if "masksup:" in line]
    assert len(told) == 1
    assert re.search(
        r"3 steps in a row up to step 3 .* on rank 2; last samples: \S+.* none of them was applied", told[0]
    )
    state = read_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[0])
    assert state.meta["skipped"] == 2
    assert not any(name.startswith("optim/exp_avg/") and value.any() for name, value in state.tensors.items())
    from masksup.config.load import load_config

    loaded, _ = load_config(config)
    ids = set(re.findall(r"last samples: (.*?)(?:, \.\.\.)?;", told[0])[0].split(", "))
    from masksup.data.split import make_plan, open_source

    source = open_source(loaded.data, loaded.seed)
    plan = make_plan(loaded, source.train)
    mine = plan.samples_at(plan.micro_batches(2)[2])  # step 3's micro-batch 2 of 4 is rank 2's only one
    assert ids == {source.train.index.id(int(sample)) for sample in mine}


def test_an_exception_on_one_rank_ends_all_with_its_traceback(job: Launcher, write_config, tmp_path: Path) -> None:
    probe = instead_of(
        "masksup.engine.step", "Stepper.step",
        "if given[2] == 3 and os.environ['RANK'] == '1': raise KeyError('a bug')\n    return real(*given)",
    )  # fmt: skip
    config = write_config(epochs=4, checkpoint={"every_steps": 1})
    ranks = job.train(3, config, tmp_path / "run", probe=probe)
    assert ranks.wait() == [1, 1, 1], ranks.text()
    assert "[rank 1] KeyError: 'a bug'" in ranks.outs[1].read_text()
    for rank in (0, 2):
        assert "Traceback" not in ranks.outs[rank].read_text()
        told = (tmp_path / "run" / "logs" / f"rank{rank}.log").read_text()
        # A rank whose connections break before it can ask for the reason points to the one that has it.
        assert "rank 1: KeyError" in told or "another rank has ended" in told
    job.to_the_end(3, config, tmp_path / "run")


def test_memory_that_one_rank_lacks_is_one_line_and_a_mistake(job: Launcher, write_config, tmp_path: Path) -> None:
    probe = instead_of(
        "masksup.engine.step", "Stepper.step",
        "if given[2] == 3 and os.environ['RANK'] == '1': import torch; torch.empty(1 << 50)\n    return real(*given)",
    )  # fmt: skip
    ranks = job.train(3, write_config(epochs=4), tmp_path / "run", probe=probe)
    assert ranks.wait() == [1, 2, 1], ranks.text()
    told = [line for line in ranks.text().splitlines() if "masksup:" in line]
    assert len(told) == 1, ranks.text()
    assert re.match("masksup: rank 1: out of memory .* batch.micro", told[0])
    assert "Traceback" not in ranks.text()


def test_a_loader_process_of_one_rank_that_the_machine_kills(job: Launcher, write_config, tmp_path: Path) -> None:
    config = write_config(epochs=1000, data__workers=1, data__eval=None)
    ranks = job.train(3, config, tmp_path / "run")
    ranks.until(lambda: rows(tmp_path / "run") > 4)
    workers = [int(Path(f"/proc/{pid}/task/{pid}/children").read_text()) for pid in ranks.pids]
    os.kill(workers[1], signal.SIGKILL)
    assert ranks.wait(60) == [1, 1, 1], ranks.text()
    told = [line for line in ranks.text().splitlines() if "masksup:" in line]
    assert len(told) == 1, ranks.text()
    assert f"rank 1: loader process {workers[1]} was killed" in told[0], ranks.text()
    assert "Traceback" not in ranks.text()
    assert all_end(workers), "they end with their rank"


def test_a_second_ctrl_c_leaves_at_once_with_130(job: Launcher, write_config, tmp_path: Path) -> None:
    """Also those ranks that wait in a sum, where no handler runs."""
    asleep = tmp_path / "asleep"
    sleep = f"os.environ['RANK'] == '1' and positions[0] > 90 and (open({str(asleep)!r}, 'w'), time.sleep(20))"
    ranks = job.train(3, write_config(epochs=1000, data__eval=None), tmp_path / "run", probe=before_fetching(sleep))
    ranks.until(asleep.exists)
    for _ in range(2):
        time.sleep(0.5)
        for rank in range(3):
            ranks.signal(rank, signal.SIGINT)
    assert ranks.wait(60) == [130, 130, 130], ranks.text()
    assert "Traceback" not in ranks.text()
    assert ranks.text().count("masksup: SIGINT: finishes this step, saves and leaves") == 1


def test_only_rank_0_writes_shared_files(job: Launcher, write_config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job.to_the_end(3, write_config(), run)
    assert {path.name for path in (run / "logs").iterdir()} == {f"rank{rank}.log" for rank in range(3)}
    assert len((run / "starts.jsonl").read_text().splitlines()) == 1
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    steps = [row["step"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "train"]
    assert steps == sorted(set(steps))
