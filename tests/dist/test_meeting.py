"""How ranks find each other, and what is said where they cannot."""

import re
import socket
import time
from pathlib import Path

import pytest
from ranks import Launcher

from masksup.base.place import Place, find_place, first_host, ports_of
from masksup.errors import UserError
from masksup.runtime.gpus import choose_backend, gpu_of


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
    assert [gpu_of(Place(local_rank=k), visible=2, shared=True) for k in range(4)] == [0, 1, 0, 1]


def test_tensors_travel_over_nccl_on_gpus_unless_told_otherwise() -> None:
    assert choose_backend("auto", on_gpu=True) == choose_backend("nccl", on_gpu=True) == "nccl"
    assert choose_backend("auto", on_gpu=False) == choose_backend("gloo", on_gpu=True) == "gloo"


GPUS = """
import os, types, torch
import masksup.runtime.join as d
n = int(os.environ["RANK"])
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: {visible}
torch.cuda.set_device = lambda k: None
torch.cuda.current_device = lambda: n % {visible}
torch.cuda.get_device_properties = lambda k: types.SimpleNamespace(pci_domain_id=0, pci_bus_id=27 + k, pci_device_id=0)
def reached(*a, **k): raise SystemExit(7)
d.dist.init_process_group = reached
"""


@pytest.mark.parametrize(
    ("visible", "backend", "said"),
    [
        (
            1,
            "auto",
            r"ranks 0, 1 on .*: found one GPU \(0000:1b:00\) for 2 ranks, expected one for each, as NCCL needs; ",
        ),
        (1, "gloo", ""),
        (2, "auto", ""),
    ],
)
def test_two_ranks_on_one_gpu_are_told_in_one_line_before_nccl_is_asked(
    visible: int, backend: str, said: str, job: Launcher, write_config, tmp_path: Path
) -> None:
    """What torch says of GPUs is imitated; NCCL is reached (status 7) only where ranks do not share one."""
    probe, config = GPUS.format(visible=visible), write_config(parallel__backend=backend)
    ranks = job.train(2, config, tmp_path / "run", probe=probe)
    codes = ranks.wait()
    if said:
        assert codes == [2, 2], ranks.text()
        assert re.search(said + ".*parallel.backend=gloo", one_line(ranks))
    else:
        assert 2 not in codes, ranks.text()
        assert "found one GPU" not in ranks.text()
    assert not (tmp_path / "run").exists()


SILENT = """
import os, time
import torch.distributed as dist
if os.environ["RANK"] == "1":
    dist.all_reduce = lambda *a, **k: time.sleep(1000)
"""


def test_a_network_that_carries_no_tensor_shows_at_the_start(job: Launcher, write_config, tmp_path: Path) -> None:
    """As where NCCL takes a card that reaches no other node: ranks meet, and the first sum never ends."""
    ranks = job.train(2, write_config(parallel__start_seconds=15), tmp_path / "run", probe=SILENT)
    assert 0 not in ranks.wait()
    assert "all ranks have been connecting for 15 s; their stacks are above" in ranks.text()
    assert not (tmp_path / "run").exists()


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
        "import os, sys\nimport masksup.config.load as c\nreal = c.load_config\n"
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
            "parallel.sum=ring batch.micro=8",
            "2 micro-batches of 8 in a batch of 16, fewer than the 3 ranks; expected at most 2 ranks, or batch.micro 5",
        ),
        ("parallel.backend=nccl", "parallel.backend: found nccl, but these ranks run on CPUs; expected auto or gloo"),
        ("parallel.sync_batchnorm=true", "parallel.sync_batchnorm: found true, but the ranks run on CPUs"),
    ],
)
def test_a_mistake_is_told_once(override: str, message: str, job: Launcher, write_config, tmp_path: Path) -> None:
    ranks = job.train(3, write_config(), tmp_path / "run", *override.split())
    assert ranks.wait() == [2, 2, 2], ranks.text()
    assert message in one_line(ranks)
    assert not (tmp_path / "run").exists()


def test_a_mistake_of_one_rank_is_told_by_rank_0(job: Launcher, write_config, tmp_path: Path) -> None:
    probe = (
        "import os\nif os.environ['RANK'] == '2':\n"
        "    import masksup.training.open as o\n    from masksup.errors import UserError\n"
        "    def missing(*a): raise UserError('/scratch/data: no such index')\n    o.open_source = missing\n"
    )
    ranks = job.train(3, write_config(), tmp_path / "run", probe=probe)
    assert ranks.wait() == [2, 2, 2], ranks.text()
    assert one_line(ranks) == "masksup: rank 2: /scratch/data: no such index"
