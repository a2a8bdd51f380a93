"""Evaluations on ranks that are stopped and go on with other ranks: no block twice, and the same scores to the bit."""

import json
import signal
from pathlib import Path

from ranks import Launcher, Ranks

BLOCKS = 10  # 20 images in blocks of 2


def counting(ran: Path, seconds: float = 0.6) -> str:
    """A probe: each block that a rank runs adds a byte to the file `ran`, and takes some time."""
    return (
        "import masksup.evaluation.forward as m, time\nreal = m._forwards\n"
        f"def counted(*given):\n    for forward in real(*given):\n        open({str(ran)!r}, 'a').write('.')\n"
        f"        time.sleep({seconds})\n        yield forward\nm._forwards = counted\n"
    )


def stop_within(ranks: Ranks, ran: Path, blocks: int, victim: int) -> None:
    """Ask one rank to stop once so many blocks were run in all."""
    ranks.until(lambda: ran.exists() and ran.stat().st_size >= blocks)
    ranks.signal(victim, signal.SIGTERM)
    assert ranks.wait() == [75] * len(ranks.pids), ranks.text()
    assert "blocks are kept" in ranks.outs[0].read_text()
    assert ranks.text().count("stopped by SIGTERM") == 1


def test_eval_goes_on_with_other_ranks(job: Launcher, write_config, tmp_path: Path) -> None:
    run, ran = tmp_path / "run", tmp_path / "ran"
    job.to_the_end(1, write_config(epochs=0.6, eval__batch=2), run)
    files = tmp_path / "clean.json", tmp_path / "scores.json"
    assert job.start(1, "eval", run, "--json", files[0]).wait() == [0]
    command = ("eval", run, "--json", files[1])
    stop_within(job.start(3, *command, probe=counting(ran)), ran, 2, victim=1)
    done = ran.stat().st_size
    assert 0 < done < BLOCKS
    last = job.start(2, *command, probe=counting(ran, 0))
    assert last.wait() == [0, 0], last.text()
    assert f"goes on after {done} of {BLOCKS} blocks" in last.outs[0].read_text()
    assert ran.stat().st_size == BLOCKS
    assert json.loads(files[1].read_text()) == json.loads(files[0].read_text())
    assert not (run / "unfinished").exists()


def test_a_run_stopped_while_it_scores_goes_on_with_other_ranks_and_engine(
    job: Launcher, write_config, tiny_data: Path, tmp_path: Path
) -> None:
    """The last step is done: what is left are its scores on eval, which are also those of the run, and on test."""
    config = write_config(epochs=1, eval__batch=2, data__test=str(tiny_data / "test"))
    job.to_the_end(3, config, tmp_path / "clean")
    run, ran = tmp_path / "run", tmp_path / "ran"
    stop_within(job.train(3, config, run, probe=counting(ran)), ran, 2, victim=2)
    assert ran.stat().st_size < BLOCKS
    zero = ("parallel.engine=deepspeed", "parallel.zero_stage=2")
    stop_within(job.train(2, config, run, *zero, probe=counting(ran)), ran, BLOCKS + 2, victim=0)
    assert BLOCKS < ran.stat().st_size < 2 * BLOCKS
    last = job.to_the_end(1, config, run, probe=counting(ran, 0))
    assert f"of {BLOCKS} blocks" in last.outs[0].read_text()
    assert ran.stat().st_size == 2 * BLOCKS
    ours, clean = (json.loads((folder / "result.json").read_text()) for folder in (run, tmp_path / "clean"))
    assert ours["history"] == clean["history"]
    for name in ("eval", "test"):
        assert ours["last"][name]["AP"] == clean["last"][name]["AP"]
    assert not (run / "unfinished").exists()
