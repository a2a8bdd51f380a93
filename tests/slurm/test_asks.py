"""What can be asked of a site: a type of GPU, gres, shell lines, options of srun; and a job that is only a namesake."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.cluster.slurm import fields, queue
from launch.ledger import Folder, job_of, read_json, starts, write_json
from masksup.config.load import to_yaml
from masksup.config.schema import Config

from .conftest import Cluster, Submit, state, wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]


@pytest.fixture
def submit(cluster: Cluster, config: Callable[..., Config], tmp_path: Path) -> Submit:
    """Without waiting for an undisturbed run to compare with: these runs are not brought to their end."""
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config()))
    return Submit(cluster, file, tmp_path)


@pytest.mark.parametrize("asked", [["--gpus-per-node", "v100:1"], ["--gres", "gpu:v100:1"]])
def test_a_type_of_gpu_lines_of_setup_and_options_of_srun_reach_the_ranks(
    submit: Submit, tmp_path: Path, asked: list[str]
) -> None:
    seen = tmp_path / "seen"
    setup = ["--setup", "export FROM_SETUP='two words'", "--srun", "cpu-bind=none", "--environment", "A=1"]
    # The rank's python writes down what it was given, and goes on as python.
    wrapper = tmp_path / "python"
    wrapper.write_text(
        f'#!/bin/sh\necho "$FROM_SETUP|$A|$CUDA_VISIBLE_DEVICES" >> {seen}\nexec {sys.executable} "$@"\n'
    )
    wrapper.chmod(0o755)
    run = submit(*asked, *setup, "--python", str(wrapper))
    wait(lambda: starts(Folder(run)) and seen.exists(), "a start")
    assert seen.read_text().splitlines()[0] == "two words|1|0"
    begun = starts(Folder(run))[0]
    assert (begun.nodes, begun.gpus) == (["n3"], 1), "the only node with this type"
    assert "v100:1" in fields(str(job_of(Folder(run))))["TresPerNode"]


def test_a_type_that_is_nowhere_is_refused_and_nothing_stays(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    for words, said in (
        (
            ["--gpus-per-node", "h100:1"],
            "h100:1; a node of any partition has at most 0 of this type; there are a100, v100",
        ),
        (["--nodes", "9", "batch.micro=1"], "SLURM refuses the job"),
        (["--gpus-per-node", "2", "--nodes", "2"], "fewer than the 4 ranks"),
    ):
        run = tmp_path / "deep" / "run"
        done = cluster.launch("submit", str(submit.file), "--run-dir", str(run), *words, status=2)
        assert said in done.stderr
        assert not (tmp_path / "deep").exists()


def test_what_srun_refuses_for_good_is_told_in_its_words_and_not_tried_again(submit: Submit) -> None:
    run = submit("--gpus-per-node", "0", "--srun", "mpi=nonsense")
    wait(lambda: state(run).state == "failed", "the end")
    assert [a.outcome for a in starts(Folder(run))] == ["wrong"]
    assert "Couldn't find the specified plugin name for mpi/nonsense" in str(state(run).error)


def test_a_namesake_is_left_alone_and_ones_own_job_is_known_after_it_was_queued_again(
    cluster: Cluster, submit: Submit
) -> None:
    run = submit("--gpus-per-node", "0", name="two words")
    job = str(job_of(Folder(run)))
    kept = read_json(Folder(run).job)["identity"]
    assert (kept["cluster_name"], kept["name"], kept["user"]) == ("masksup", "masksup-two words", "root")
    wait(lambda: starts(Folder(run)), "a start")
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait(lambda: queue([job])[job].submitted != kept["submitted"], "another time of submission")
    row = read_json(Folder(run).job)
    for key, other in (("cluster_name", "elsewhere"), ("name", "theirs"), ("user", "bob")):
        write_json(Folder(run).job, row | {"identity": kept | {key: other}})
        assert "nothing is done to it" in cluster.launch("cancel", str(run)).stdout
    assert queue([job])[job].active
    write_json(Folder(run).job, row)
    assert "was asked to save" in cluster.launch("cancel", str(run)).stdout
    wait(lambda: not queue([job])[job].active, "the end")
