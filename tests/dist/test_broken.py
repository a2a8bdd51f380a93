"""How many images may be broken does not depend on how many ranks share the work."""

from pathlib import Path

import pytest
from ranks import Launcher

from masksup.data.index import Index, open_index
from masksup.data.shapes import prepare_shapes
from masksup.data.write_index import write_index
from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint

BROKEN = {"train": [3, 11, 20], "val": [1, 9]}


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Index]:
    folder = tmp_path_factory.mktemp("broken")
    for content in prepare_shapes(folder / "root", train=30, val=20, test=20, size=48, seed=4):
        write_index(folder / content.split, content)
    found = {name: open_index(folder / name) for name in ("train", "val", "test")}
    for name, samples in BROKEN.items():
        for sample in samples:
            path = found[name].path(sample)
            path.write_bytes(path.read_bytes()[:200])
    return found


def named(run: Path, index: Index) -> list[str]:
    """The broken images of an index in the logs of all ranks, as often as they are named."""
    lines = [line for log in (run / "logs").iterdir() for line in log.read_text().splitlines()]
    return sorted(line.split("(sample ")[1] for line in lines if "broken image," in line and str(index.root) in line)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_same_broken_images_stop_a_run_of_any_number_of_ranks(
    world: int, indexes: dict[str, Index], job: Launcher, write_config, tmp_path: Path
) -> None:
    train, val, test = (str(indexes[name].folder) for name in ("train", "val", "test"))
    both = {"data__train": train, "data__eval": val, "epochs": 3, "checkpoint": {"every_steps": 1}}

    run = tmp_path / "enough"
    ranks = job.to_the_end(world, write_config(**both, data__broken_budget=3.5 / 30), run)
    state = read_checkpoint(list_checkpoints(run / "checkpoints")[0])
    assert state.meta["at"]["broken"] == {"train": BROKEN["train"], "eval": BROKEN["val"]}
    ids = [indexes[name].id(sample) for name in BROKEN for sample in BROKEN[name]]
    assert named(run, indexes["train"]) == sorted(f"{name})" for name in ids), "each once, although met in every epoch"
    assert ranks.text().count("broken image,") == 5

    # In the one epoch no rank meets all three.
    for place, data, budget, found in (
        ("train", {"data__train": train, "data__eval": None}, 2.5 / 30, "found 3 broken images of 30"),
        ("eval", {"data__train": test, "data__eval": val}, 1.5 / 20, "found 2 broken images of 20"),
    ):
        ranks = job.train(world, write_config(**data, data__broken_budget=budget, epochs=1), tmp_path / place)
        assert ranks.wait() == [2] * world, ranks.text()
        assert ranks.text().count("masksup: ") == 1
        assert f"{found}, expected a share of at most {budget} (data.broken_budget)" in ranks.text()
        assert ranks.text().count("broken image,") == len(BROKEN["train" if place == "train" else "val"])
