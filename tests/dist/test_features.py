"""The features of a frozen backbone are computed by all ranks, each once, and are those of one rank to the bit."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from compare import assert_same_run
from ranks import Launcher

# Each rank says which blocks it computes.
_SAYS_BLOCKS = """
from masksup.engine import features

loads = features.eval_loader

def says(*args, numbers, **options):
    print("blocks", list(numbers), flush=True)
    return loads(*args, numbers=numbers, **options)

features.eval_loader = says
"""
HEAD = {"model__frozen": True, "model__head": {"name": "linear"}}


def kept(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (run / "features").iterdir()}


@pytest.mark.parametrize("world", [3, 5])
def test_any_number_of_ranks_keeps_the_same_bytes(world: int, job: Launcher, write_config, tmp_path: Path) -> None:
    """50 images to train on, 20 to score, in blocks of 16: 5 ranks have a rank without a block."""
    config = write_config(**HEAD, eval__batch=16, batch={"global": 10, "micro": 2}, epochs=1)
    job.to_the_end(1, config, tmp_path / "one")
    ranks = job.to_the_end(world, config, tmp_path / "many", probe=_SAYS_BLOCKS)
    assert kept(tmp_path / "many") == kept(tmp_path / "one")
    assert len(kept(tmp_path / "one")) >= 4, "each has its hash, and none is left unfinished"
    assert_same_run(tmp_path / "many", tmp_path / "one")

    shares = [[json.loads(line) for line in re.findall(r"^blocks (.*)$", out.read_text(), re.M)] for out in ranks.outs]
    for blocks in zip(*shares, strict=True):  # of one file
        computed = [number for share in blocks for number in share]
        assert computed == list(range(len(computed))), "each block by one rank"
        assert max(map(len, blocks)) - min(map(len, blocks)) <= 1, "no rank waits for another's share"


def test_a_rank_that_cannot_compute_ends_all_with_one_line(job: Launcher, write_config, tmp_path: Path) -> None:
    """What it found cannot be kept; nothing half-written stays, and the next start computes all."""
    config = write_config(**HEAD, eval__batch=16, epochs=1, model__features_dtype="float16")
    large = """
import os
from masksup.models.network import Network

if os.environ["RANK"] == "1":
    plain = Network.features
    Network.features = lambda self, images: plain(self, images) + 1e5
"""
    ranks = job.train(2, config, tmp_path / "run", probe=large)
    assert ranks.wait() == [2, 2], ranks.text()
    [line] = [line for line in ranks.text().splitlines() if line.startswith("masksup: ")]
    assert re.fullmatch(
        r"masksup: rank 1: model\.features_dtype: found a feature of 100000, expected at most 65504 in float16; "
        r"set model\.features_dtype=float32", line,
    )  # fmt: skip
    assert kept(tmp_path / "run") == {}
    job.to_the_end(2, config, tmp_path / "run")
    assert {np.load(file).dtype.name for file in (tmp_path / "run" / "features").glob("*.npy")} == {"float16"}


def test_a_file_of_features_that_cannot_be_read_ends_all_with_one_line(
    job: Launcher, write_config, tmp_path: Path
) -> None:
    """Only rank 0 looks at it."""
    config = write_config(**HEAD, epochs=1, model__features=str(tmp_path / "kept"))
    job.to_the_end(1, config, tmp_path / "one")
    file = next((tmp_path / "kept").glob("*.npy"))
    file.unlink()
    os.mkfifo(file)
    ranks = job.train(2, config, tmp_path / "two")
    assert ranks.wait() == [2, 2], ranks.text()
    [line] = [line for line in ranks.text().splitlines() if line.startswith("masksup: ")]
    assert str(file) in line
