"""How ranks find each other, and what is said where they cannot."""

import socket
import time
from pathlib import Path

import pytest
from ranks import Launcher

from masksup.errors import UserError
from masksup.runtime.distributed import gpu_of
from masksup.runtime.place import Place, find_place, first_host, ports_of


def one_line(ranks) -> str:
    """What the job says: one line, and no traceback."""
    told = [line for out in ranks.outs for line in out.read_text().splitlines() if line.strip()]
    assert len(told) == 1, ranks.text()
    return told[0]


def slurm(world: int, job_id: int, **more: str) -> dict[str, str]:
    return {
        "SLURM_PROCID": "{rank}", "SLURM_STEP_NUM_TASKS": str(world), "SLURM_LOCALID": "{rank}",
        "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(job_id), "SLURM_STEP_ID": "0",
        "SLURM_STEP_TASKS_PER_NODE": str(world), **more,
    }  # fmt: skip


def test_places() -> None:
    assert find_place({}) == Place()
    torchrun = {
        "RANK": "3",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "h",
        "MASTER_PORT": "7",
    }
    place = find_place(torchrun)
    assert (place.rank, place.world, place.local_rank, place.local_world, place.host, place.ports) == (
        3,
        8,
        1,
        2,
        "h",
        (7,),
    )
    srun = {key: value.replace("{rank}", "5") for key, value in slurm(8, 77).items()}
    srun |= {"SLURM_STEP_NODELIST": "gpu[07-09],x1", "SLURM_STEP_TASKS_PER_NODE": "3(x2),2", "SLURM_NODEID": "2"}
    place = find_place(srun)
    assert (place.rank, place.world, place.local_rank, place.local_world, place.host) == (5, 8, 5, 2, "gpu07")
    # A batch script has a process id and a number of tasks too, but it is no rank.
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}) == Place()
    assert find_place({**srun, "SLURM_STEP_NUM_TASKS": "1"}) == Place()
    with pytest.raises(UserError, match="rank 9 of 8"):
        find_place({**torchrun, "RANK": "9"})
    with pytest.raises(UserError, match="WORLD_SIZE: found 'many'"):
        find_place({**torchrun, "WORLD_SIZE": "many"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a", "a"),
        ("n1,n2", "n1"),
        ("n[3-5]", "n3"),
        ("n[003,7]", "n003"),
        ("gpu[1-2]-ib,x", "gpu1-ib"),
        ("a-b,c[1-2]", "a-b"),
    ],
)
def test_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_ports_are_a_function_of_the_start_of_a_job() -> None:
    assert ports_of("1.0/0") == ports_of("1.0/0")
    assert len(ports_of("1.0/0")) >= 7
    assert all(20000 <= port < 30000 for port in ports_of("1.0/0"))
    many = [ports_of(f"{job}.0/{restart}")[0] for job in range(1000) for restart in range(2)]
    assert len(set(many)) > 1700  # of 10,000


def test_a_rank_uses_the_gpu_it_was_given() -> None:
    assert gpu_of(Place(local_rank=3), visible=1) == 0
    assert gpu_of(Place(local_rank=3), visible=4) == 3
    with pytest.raises(UserError, match="local rank 3: found 2 GPUs"):
        gpu_of(Place(local_rank=3, local_world=4), visible=2)


def test_ranks_of_srun_meet_although_ports_are_taken(job: Launcher, write_config, tmp_path: Path) -> None:
    """The first port is held by something that never answers; two jobs start on one host at once."""
    config = write_config(epochs=0.6)
    with socket.socket() as foreign:
        foreign.bind(("0.0.0.0", ports_of("4711.0/0")[0]))
        foreign.listen()
        jobs = [job.train(2, config, tmp_path / str(number), env=slurm(2, number)) for number in (4711, 4712)]
        for ranks in jobs:
            assert ranks.wait() == [0, 0], ranks.text()


def test_a_rank_that_does_not_show_up_is_named(job: Launcher, write_config, tmp_path: Path) -> None:
    config = write_config(parallel__start_seconds=8)
    began = time.monotonic()
    ranks = job.train(4, config, tmp_path / "run", only=2)
    assert ranks.wait() == [1, 1], ranks.text()
    assert time.monotonic() - began < 8 + 30
    assert one_line(ranks) == "masksup: ranks 2, 3 of 4 did not show up within 8 s (parallel.start_seconds)"
    assert not (tmp_path / "run").exists()


def test_a_rank_with_another_configuration_is_named(job: Launcher, write_config, tmp_path: Path) -> None:
    probe = (
        "import os, sys\nimport masksup.config_file as c\nreal = c.load_config\n"
        "c.load_config = lambda f, o: real(f, [*o, 'seed=8'] if os.environ['RANK'] == '1' else o)\n"
    )
    ranks = job.train(3, write_config(), tmp_path / "run", probe=probe)
    assert ranks.wait() == [2, 2, 2], ranks.text()
    assert "rank 1 on " in one_line(ranks)
    assert "found another configuration than rank 0" in one_line(ranks)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=high", "optim.lr: found 'high'"),
        ("data.train=nowhere", "nowhere"),
        (
            "batch.micro=8",
            "2 micro-batches of 8 in a batch of 16, fewer than the 3 ranks; expected at most 2 ranks, or batch.micro 5",
        ),
        ("parallel.sync_batchnorm=true", "parallel.sync_batchnorm: found true, but the ranks run on CPUs"),
    ],
)
def test_a_mistake_is_told_once(override: str, message: str, job: Launcher, write_config, tmp_path: Path) -> None:
    ranks = job.train(3, write_config(), tmp_path / "run", override)
    assert ranks.wait() == [2, 2, 2], ranks.text()
    assert message in one_line(ranks)
    assert not (tmp_path / "run").exists()


def test_a_mistake_of_one_rank_is_told_by_rank_0(job: Launcher, write_config, tmp_path: Path) -> None:
    probe = (
        "import os\nif os.environ['RANK'] == '2':\n"
        "    import masksup.opening as o\n    from masksup.errors import UserError\n"
        "    def missing(*a): raise UserError('/scratch/data: no such index')\n    o.open_source = missing\n"
    )
    ranks = job.train(3, write_config(), tmp_path / "run", probe=probe)
    assert ranks.wait() == [2, 2, 2], ranks.text()
    assert one_line(ranks) == "masksup: rank 2: /scratch/data: no such index"
