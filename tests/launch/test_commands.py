"""masksup-launch without a cluster: what it refuses, what it shows, what it asks SLURM, and a job on this machine."""

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from compare import assert_same_run
from rich.console import Console

from launch import without_submitit
from launch.__main__ import main
from launch.cluster import sbatch_script, slurm, snapshot
from launch.cluster.checks import refuse_full
from launch.cluster.resources import Resources, read_resources, seconds
from launch.ledger import Folder, Start, Token, begin, read_json, starts, write_json
from launch.start import first_node
from launch.start.start import rank_command
from launch.watch.status import RunStatus, find_runs, judge, rows
from launch.watch.table import show, summary
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.errors import UserError
from masksup.training.train import train

ROOT = Path(__file__).resolve().parents[2]
MakeConfig = Callable[..., Config]
SINFO = 'case "$*" in *%G*) echo "gpu|gpu:a100:4(S:0-1)"; echo "small|gpu:2";; *) echo n1;; esac'


@pytest.fixture
def bin_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts shell scripts in the place of SLURM's commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return put


@pytest.fixture
def cluster(bin_: Callable[[str, str], None]) -> Callable[[str, str], None]:
    bin_("sinfo", SINFO)
    bin_("srun", "exit 0")
    bin_("squeue", "exit 0")
    bin_("sbatch", 'case "$*" in *test-only*) exit 0;; *) echo "Submitted batch job 77";; esac')
    return bin_


@pytest.fixture
def config(tiny_config: MakeConfig, tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(to_yaml(tiny_config(epochs=1)))
    return file


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a refusal."""
    assert main(list(words)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert len(lines) == 1, lines
    return lines[0]


def submit_words(config: Path, *more: str) -> list[str]:
    return ["submit", str(config), "--run-dir", str(config.parent / "run"), *more]


def test_help_of_resources_tells_defaults_where_there_are_some(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["submit", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "(default: 1)" in out
    assert "before it trains. (default: no)" in out
    for word in ("None", "False", "{}", "[]"):
        assert f"(default: {word})" not in out


def test_help_is_instant_and_neither_it_nor_status_needs_torch(tmp_path: Path) -> None:
    code = "import sys; from launch.__main__ import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print('HEAVY', [m for m in ('torch', 'numpy', 'submitit') if m in sys.modules])"
    for words in (["--help"], ["submit", "--help"], ["status", str(tmp_path)]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert "HEAVY []" in done.stdout, done.stdout + done.stderr


ZERO = ["parallel.engine=deepspeed", "parallel.zero_stage=2"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--partition", "gpus"], "partition: found 'gpus'; did you mean 'gpu'?"),
        (["--gpus-per-node", "8"], "gpus_per_node: found 8; a node of any partition has at most 4"),
        (["--gpus-per-node", "4", "--partition", "small"], "a node of partition small has at most 2"),
        (["--gpus-per-node", "x"], "gpus_per_node: found 'x'"),
        (["--nodes", "4-1"], "nodes: found '4-1'; expected a number from 1, or a range such as 1-4"),
        (["--nodes", "3-4"], "fewer than the 3 ranks"),
        (["--nodes", "1-3", "batch.micro=4", *ZERO], "3 ranks do not divide the 4 micro-batches"),
        (["--time", "soon"], "time: found 'soon', expected minutes"),
        (["--time", "2"], "time: found 2, expected more than signal_seconds"),
        (["optim.rate=1"], "optim.rate: unknown key"),
        (["--environment", "A"], "expected NAME=VALUE"),
        (["--cluster-config", "/nowhere.yaml"], "/nowhere.yaml: no such configuration file"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_submitted(
    cluster: Callable[[str, str], None],
    config: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: str,
) -> None:
    cluster("sbatch", 'case "$*" in *test-only*) exit 0;; *) touch "$(dirname $0)/submitted";; esac')
    assert expected in said(capsys, *submit_words(config, *words))
    assert not list(config.parent.rglob("submitted"))


def test_a_machine_without_slurm_is_told_so(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    absent = "found no sbatch and srun on this machine, expected a login node of SLURM"
    for more in ([], ["--dry-run"]):
        assert f"{absent}; --cluster local" in said(capsys, *submit_words(config, *more))
    assert said(capsys, "preflight", "--folder", str(tmp_path)) == f"masksup-launch: {absent}"


def test_where_slurm_does_not_answer_a_script_is_shown_and_preflight_is_one_line(
    cluster: Callable[[str, str], None], config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cluster("sinfo", 'echo "sinfo: fatal: Could not establish a configuration source" >&2; exit 1')
    problem = "SLURM does not answer here (sinfo: fatal: Could not establish a configuration source)"
    assert main([*submit_words(config), "--dry-run", "--partition", "any"]) == 0
    out, err = capsys.readouterr()
    assert "#SBATCH --partition=any" in out
    assert f"warning: {problem}; --cluster local runs it on this machine; not compared with what" in err
    assert problem in said(capsys, *submit_words(config))
    assert said(capsys, "preflight", "--folder", str(tmp_path)) == f"masksup-launch: {problem}"
    # What needs no cluster to be known is refused all the same.
    assert "time: found 1, expected more than" in said(capsys, *submit_words(config), "--dry-run", "--time", "1")


def test_what_slurm_refuses_is_passed_on_in_its_words(
    cluster: Callable[[str, str], None], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster("sbatch", 'echo "sbatch: error: Batch job submission failed: Invalid account" >&2; exit 1')
    line = said(capsys, *submit_words(config, "--account", "none"))
    assert "SLURM refuses the job" in line
    assert "Invalid account" in line


def test_a_sites_file_is_checked_by_key_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("partition: gpu\ncpus_per_rank: 7\n")
    found = read_resources(file, {"command line": {"cpus_per_rank": "3"}})
    assert (found.partition, found.cpus_per_rank) == ("gpu", 3)
    file.write_text("partitions: gpu\n")
    with pytest.raises(UserError, match=r"cluster.yaml: partitions: unknown key; did you mean 'partition'"):
        read_resources(file, {})


def test_a_sites_mappings_are_added_to_and_its_numbers_need_no_quotes(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "time: 8:00:00\naccount: 1234\nmem: 64000\nenvironment: {A: 1, B: x}\n"
        "sbatch: {reservation: maintenance, exclusive: true}\n"
    )
    found = read_resources(file, {"sweep": {"environment": {"B": "y"}}, "command line": {"sbatch": {"hold": ""}}})
    assert (found.limit_seconds, found.account, found.mem) == (28800, "1234", "64000")
    assert found.environment == {"A": "1", "B": "y"}
    assert found.sbatch == {"reservation": "maintenance", "exclusive": "", "hold": ""}
    work = sbatch_script.Work("x", (tmp_path,), tmp_path, tmp_path)
    more = sbatch_script.parameters(work, found)["additional_parameters"]
    assert more == {"time": "8:00:00", "requeue": True, "reservation": "maintenance", "exclusive": True, "hold": True}
    with pytest.raises(UserError, match=r"sweep\.yaml: resources: nodes: found 0"):
        read_resources(file, {"sweep.yaml: resources": {"nodes": 0}, "command line": {}})


def test_an_array_that_a_script_submits_asks_for_all_that_its_job_was_given(
    bin_: Callable[[str, str], None], tmp_path: Path
) -> None:
    """The line is what SLURM 22.05 says of a job with these options."""
    bin_(
        "scontrol",
        """echo "JobId=3 JobName=wrap Account=root QOS=normal TimeLimit=00:30:00 Partition=low \
ReqNodeList=(null) ExcNodeList=n1 CPUs/Task=2 MinMemoryNode=1500M Features=a100&ib Reservation=(null) \
Comment=two words  StdErr=/tmp/o TresPerNode=gres:gpu:v100:2 " """,
    )
    given = {"SLURM_JOB_NUM_NODES": "2", "SLURM_TASKS_PER_NODE": "2(x2)", "SLURM_JOB_GPUS": "0,1",
             "SLURM_CPUS_PER_TASK": "2", "SLURM_MEM_PER_NODE": "1500", "SLURM_JOB_ID": "3"}  # fmt: skip
    file = tmp_path / "s.yaml"
    file.write_text(
        "base: b.yaml\nresources: {cpus_per_rank: 3, environment: {A: b}, sbatch: {nice: 5, exclusive: true}}\n"
    )
    resources = without_submitit.resources_of_sweep(file, given)
    assert without_submitit.sbatch_options(resources) == [
        "--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=v100:2", "--cpus-per-task=3", "--mem=1500",
        "--time=00:30:00", "--partition=low", "--account=root", "--qos=normal", "--constraint=a100&ib", "--exclude=n1",
        "--comment=two words", "--nice=5", "--exclusive",
    ]  # fmt: skip
    assert resources.environment == {"A": "b"}
    without = {**given, "SLURM_JOB_GPUS": "", "SLURM_MEM_PER_NODE": "", "SLURM_TASKS_PER_NODE": "1"}
    assert "--gpus-per-node=0" in without_submitit.sbatch_options(without_submitit.resources_of_sweep(file, without))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", 300), ("5:30", 330), ("2:00:00", 7200), ("1-0", 86400), ("1-2:03", 93780), ("1-02:03:04", 93784)],
)
def test_time_limits_are_read_as_slurm_reads_them(text: str, expected: int) -> None:
    assert seconds(text) == expected


def test_a_full_disk_is_noticed_before_anything_is_submitted(
    cluster: Callable[[str, str], None], config: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    refuse_full(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(UserError, match="cannot be written to"):
        refuse_full(Path("/dev/full"))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    cluster("sbatch", "touch submitted")
    before = sorted(tmp_path.rglob("*"))
    assert "No space left on device" in said(capsys, *submit_words(config))
    with pytest.raises(UserError, match="No space left"):
        refuse_full(tmp_path / "new" / "of" / "several")
    assert sorted(tmp_path.rglob("*")) == before, "nothing was submitted, and no empty folder stays"


def test_dry_run_prints_the_script_that_is_submitted_and_touches_nothing(
    cluster: Callable[[str, str], None], config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--time", "30", "--partition", "gpu", "--comment", "two words", "--constraint", "a100", "--qos", "long"]
    options += ["--account", "vision", "--exclude", "n7", "--mem", "5G", "--nodes", "2", "--gpus-per-node", "3"]
    options += ["batch.micro=2"]
    assert main(submit_words(config, *options, "--dry-run")) == 0
    shown = capsys.readouterr().out
    run = config.parent / "run"
    assert not run.exists()
    assert main(submit_words(config, *options)) == 0
    assert "job         77" in capsys.readouterr().out
    script = (run / "launch" / "submitit" / "77_submission.sh").read_text()
    assert script.strip() in shown
    for line in (
        "--partition=gpu", "--comment='two words'", "--signal=USR2@90", "--requeue", "--open-mode=append", "--qos=long",
        "--account=vision", "--exclude=n7", "--mem=5G", "--nodes=2", "--gpus-per-node=3", "--ntasks-per-node=3",
        "--constraint=a100", "--time=30",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert "wckey=submitit" not in script
    assert to_yaml(yaml_config(run)) in shown


def test_the_site_files_of_the_guide_are_understood(
    cluster: Callable[[str, str], None], config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    said = ""
    for number, text in enumerate(re.findall(r"<!-- tested: site -->\n```yaml\n(.*?)```", guide, re.DOTALL)):
        site = tmp_path / f"site{number}.yaml"
        site.write_text(text)
        assert main(submit_words(config, "--cluster-config", str(site), "batch.micro=2", "--dry-run")) == 0
        said += capsys.readouterr().out
    for shown in (
        "--gpus-per-node=a100:4\n", "--constraint='h100|a100'\n", "--gres=gpu:a100:4\n", "--mpi=none",
        "module load cuda", "apptainer exec --nv --bind /scratch /shared/images/masksup.sif python -P", "NCCL_IB_HCA",
    ):  # fmt: skip
        assert shown in said, shown


def test_a_range_of_nodes_is_slurms_own_and_a_surplus_is_said(
    cluster: Callable[[str, str], None], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(submit_words(config, "--nodes", "1-4", "--dry-run")) == 0
    said = capsys.readouterr()
    assert "#SBATCH --nodes=1-4\n" in said.out
    # SLURM gives no more nodes than tasks, and with tasks on a node it counts those of the fewest nodes.
    assert "#SBATCH --ntasks-per-node" not in said.out
    assert f"#SBATCH --cpus-per-task={Resources().cpus_per_rank}\n" in said.out
    assert "--nodes=4 --ntasks=4" in said.out, "the ranks of a start that is given all"
    assert "warning: nodes: 1-4: batch.micro: found 2 micro-batches of 8 in a batch of 16, fewer than the 4" in said.err


def test_sweeps_and_preflight_take_a_range_of_nodes_too(
    cluster: Callable[[str, str], None], config: Path, capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = "base: mine.yaml\ngrid: {optim.lr: [0.1, 0.2]}\nresources: {nodes: RANGE, gpus_per_node: 1}\n"
    file = tmp_path / "rates.yaml"
    file.write_text(sweep.replace("RANGE", "1-2"))
    assert main(["sweep", str(file), "--dry-run"]) == 0
    assert "#SBATCH --nodes=1-2\n" in capsys.readouterr().out
    file.write_text(sweep.replace("RANGE", "2-1"))
    assert "resources: nodes: found '2-1'; expected a number from 1, or a range" in said(capsys, "sweep", str(file))
    file.write_text(sweep.replace("RANGE", "3-4"))
    assert "fewer than the 3 ranks" in said(capsys, "sweep", str(file), "--dry-run")

    cluster("srun", f'echo "$@" > {tmp_path}/asked')
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    words = ["preflight", "--nodes", "1-4", "--folder", str(tmp_path)]
    assert main(words) == 0
    assert "--nodes=4 --ntasks=4" in (tmp_path / "asked").read_text()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert main(words) == 0
    assert "--nodes=2 --ntasks=2" in (tmp_path / "asked").read_text(), "what the allocation has"


@pytest.mark.parametrize(
    ("text", "given", "world"), [("2-3", 2, 4), ("2-3", 3, 6), (2, 2, 4), ("2-2", 2, 4), ("2-3", 1, 4)]
)  # this machine, which stands for all nodes
def test_a_start_has_the_ranks_of_the_nodes_it_was_given(text: int | str, given: int, world: int) -> None:
    asked = Resources(nodes=text, gpus_per_node=2)
    assert asked.on(given).world == world
    assert Resources.model_validate(asked.model_dump()) == asked


def test_dry_run_shows_what_the_nodes_run(
    cluster: Callable[[str, str], None], config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--gpus-per-node", "2", "--container", "apptainer exec --nv 'my image.sif'", "--python", "/opt/py thon"]
    assert main(submit_words(config, *options, "batch.micro=2", "--dry-run")) == 0
    lines = capsys.readouterr().out.splitlines()
    words = shlex.split(next(line for line in lines if line.startswith("srun ")))
    assert "--ntasks=2" in words
    assert "--gpu-bind=none" in words, "every rank sees all GPUs of its node"
    resources = Resources(gpus_per_node=2, container="apptainer exec --nv 'my image.sif'", python="/opt/py thon")
    folder = Folder(config.parent / "run")
    ranks = rank_command(resources, "launch.start.keeper", [str(folder.run)])
    assert words[-len(ranks) :] == ranks
    assert words[: -len(ranks)] == first_node.srun_command(resources, folder, Start(1, "JOB", 0, 0.0))
    assert main(submit_words(config, "--gpus-per-node", "0", "--dry-run")) == 0
    assert "gpu-bind" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "keepers", "outlives"),
    [
        (["--nodes", "2"], True, True),
        (["--nodes", "2", "checkpoint.snapshot_seconds=0"], False, False),
        (["--nodes", "1"], True, False),
        (["--nodes", "2", "--container", "run"], True, False),  # which has no scontrol
        (["--nodes", "2", "parallel.engine=deepspeed"], False, False),
    ],
)
def test_a_job_stays_without_a_lost_node_where_keepers_of_others_can_see_to_it(
    cluster: Callable[[str, str], None],
    config: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    keepers: bool,
    outlives: bool,
) -> None:
    assert main(submit_words(config, "--gpus-per-node", "1", *words, "batch.micro=2", "--dry-run")) == 0
    said = capsys.readouterr().out
    srun = shlex.split(next(line for line in said.splitlines() if line.startswith("srun ")))
    assert ("#SBATCH --no-kill" in said.splitlines()) == outlives
    assert ("--no-kill" in srun, "--wait=0" in srun) == (outlives, outlives)
    assert ("launch.start.keeper" in srun, "launch.start.rank" in srun) == (keepers, not keepers)


def test_the_commands_to_type_next_are_quoted(
    cluster: Callable[[str, str], None], config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = tmp_path / "it's mine; rm -rf $HOME"
    assert main(["submit", str(config), "--run-dir", str(home / "run")]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.strip())
    assert shlex.split(said["state"]) == ["masksup-launch", "status", str(home)]
    assert shlex.split(said["curves"]) == ["tensorboard", "--logdir", str(home)]


def test_a_waiting_run_says_why_in_its_own_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = [
        RunStatus("one", "7", "waiting", note="Priority"),
        RunStatus("two", "8", "disagree", note="SLURM knows no job 8"),
    ]
    show(table, Console(width=120), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "Priority" in line] == [line for line in lines if line.startswith("one ")]
    assert "waiting (Priority)" in lines[1]
    assert lines[3] == "two: SLURM knows no job 8"
    assert len(lines) == 5, "headings, two rows, one note, the summary"
    assert lines[4].startswith("2 runs: 1 disagree, 1 waiting; ")
    assert summary(table[:1]).startswith("1 run: 1 waiting; ")


@pytest.mark.parametrize("missing", ["sbatch", "srun", "sinfo"])
def test_without_slurm_the_other_way_is_named(
    cluster: Callable[[str, str], None], config: Path, missing: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if missing == "sinfo":
        cluster("sinfo", "echo 'sinfo: error: slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    else:
        (tmp_path / "bin" / missing).unlink()
        os.environ["PATH"] = str(tmp_path / "bin")  # the fixture of `bin_` puts it back
    message = said(capsys, *submit_words(config))
    assert "--cluster local" in message
    assert not (config.parent / "run").exists()


def test_a_container_and_the_throttle_of_an_array(cluster: Callable[[str, str], None], tmp_path: Path) -> None:
    resources = Resources(container="apptainer exec --nv 'my image.sif'", python="/opt/python", array_parallel=3)
    command = rank_command(resources, "launch.start.rank", ["run"])
    assert command[2:7] == ["apptainer", "exec", "--nv", "my image.sif", "/opt/python"]
    work = sbatch_script.Work("x", tuple(tmp_path / name for name in "abcd"), tmp_path, tmp_path)
    assert "#SBATCH --array=0-3%3\n" in sbatch_script.text(work, resources)


def yaml_config(run: Path) -> Config:
    return Config.model_validate(yaml.safe_load((run / "config.yaml").read_text()))


def test_what_is_kept_of_a_job_is_for_its_owner_and_the_pickle_holds_only_a_path(
    cluster: Callable[[str, str], None], config: Path
) -> None:
    assert main(submit_words(config)) == 0
    run = config.parent / "run"
    assert (run / "launch" / "submitit").stat().st_mode & 0o777 == 0o700
    pickled = (run / "launch" / "submitit" / "77_submitted.pkl").read_bytes()
    assert str(run).encode() in pickled
    assert len(pickled) < 1000
    assert b"optim" not in pickled


def test_one_run_is_not_submitted_twice(
    cluster: Callable[[str, str], None], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(submit_words(config)) == 0
    cluster("squeue", 'echo "77|RUNNING|None|n1|0:01"')
    capsys.readouterr()
    assert "job 77 already works on this run" in said(capsys, *submit_words(config))
    cluster("squeue", "exit 0")
    assert "another configuration" in said(capsys, *submit_words(config, "optim.lr=0.5"))
    (config.parent / "run" / "result.json").write_text("{}")
    assert "this run is finished" in said(capsys, *submit_words(config))


def test_a_run_may_go_on_with_another_engine(
    cluster: Callable[[str, str], None], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(submit_words(config)) == 0
    assert main(submit_words(config, "parallel.engine=deepspeed")) == 0
    assert yaml_config(config.parent / "run").parallel.engine == "deepspeed", "which is what the ranks read"


def test_the_copy_of_the_code_is_named_by_its_content(tmp_path: Path) -> None:
    copy = snapshot.snapshot(tmp_path)
    assert copy == snapshot.place_of(tmp_path)
    assert (copy / "masksup" / "cli.py").read_bytes() == (ROOT / "masksup" / "cli.py").read_bytes()
    assert snapshot.snapshot(tmp_path) == copy
    (tmp_path / "launch.py").write_text("raise SystemExit(9)")  # others name files so too
    code = "import masksup, launch; print(masksup.__file__, launch.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.split() == [str(copy / "masksup/__init__.py"), str(copy / "launch/__init__.py")]


def test_node_lists() -> None:
    assert slurm.hosts("n[1-3,07],login") == ["n1", "n2", "n3", "n07", "login"]
    assert slurm.hosts("gpu[098-101]x") == ["gpu098x", "gpu099x", "gpu100x", "gpu101x"]
    assert slurm.hosts("a,b[2]") == ["a", "b2"]


def test_an_older_copy_of_a_job_does_not_queue_the_newer_one(bin_: Callable[[str, str], None], tmp_path: Path) -> None:
    bin_("scontrol", f'case "$1" in -o) echo "JobState=RUNNING Restarts=1";; *) touch {tmp_path}/requeued;; esac')
    assert "queued again already" in str(slurm.requeue("7", 0))
    assert not (tmp_path / "requeued").exists()
    assert slurm.requeue("7", 1) is None
    assert (tmp_path / "requeued").exists()


@pytest.mark.parametrize("state", ["CANCELLED Reason=None", "COMPLETING Reason=None", "FAILED Reason=NodeFail"])
def test_a_cancelled_job_is_not_queued_again(bin_: Callable[[str, str], None], state: str) -> None:
    bin_("scontrol", f'case "$1" in -o) echo "JobState={state} Restarts=0";; *) exit 0;; esac')
    assert state.partition(" ")[0] in str(slurm.requeue("7", 0))


def test_a_job_that_overran_its_time_limit_is_queued_again(bin_: Callable[[str, str], None]) -> None:
    bin_("scontrol", 'case "$1" in -o) echo "JobState=COMPLETING Reason=TimeLimit Restarts=0";; *) exit 0;; esac')
    assert slurm.requeue("7", 0) is None


def test_a_controller_that_is_away_is_waited_for(bin_: Callable[[str, str], None], tmp_path: Path) -> None:
    away = f'{{ touch {tmp_path}/back; echo "Unable to contact slurm" >&2; exit 1; }}'
    bin_("scontrol", f'test -e {tmp_path}/back || {away}\n'
                     'case "$1" in -o) echo "JobState=RUNNING Restarts=0";; esac')  # fmt: skip
    assert slurm.requeue("7", 0, pause=0.01) is None


def test_one_forgotten_job_does_not_hide_the_others(bin_: Callable[[str, str], None]) -> None:
    bin_("squeue", """case "$*" in
        *-j*,*|*\\ 5) echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1;;
        esac
        echo "7_2|RUNNING|None|0|N/A|N/A|ada|x" """)  # fmt: skip
    assert list(slurm.queue(["5", "7_2"])) == ["7_2"]


def test_own_formats_of_squeue_do_not_change_what_is_read(
    bin_: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_("squeue", 'echo "7|${SQUEUE_FORMAT:-RUNNING}|None|n1|0:01"')
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    assert slurm.queue(["7"])["7"].state == "RUNNING"


def job(state: str) -> slurm.Job:
    return slurm.Job("7", state)


RUNNING = Start(1, "7", 0, 0.0)
ENDED = Start(1, "7", 0, 0.0, outcome="preempted")


@pytest.mark.parametrize(
    ("known", "newest", "age", "phase", "expected"),
    [
        (job("RUNNING"), RUNNING, 1.0, "training", "running"),
        (job("RUNNING"), RUNNING, 1.0, "starting", "starting"),
        (job("RUNNING"), RUNNING, None, None, "starting"),
        (job("RUNNING"), RUNNING, 99.0, "training", "silent"),
        (job("PENDING"), None, None, None, "waiting"),
        (job("PENDING"), ENDED, 3.0, "training", "waiting"),
        (job("PENDING"), RUNNING, 3.0, "training", "disagree"),  # queued again, but the old copy still lives
        (None, RUNNING, 3.0, "training", "disagree"),
        (None, RUNNING, 99.0, "training", "stopped"),
        (None, ENDED, 99.0, "training", "stopped"),
        (job("FAILED"), Start(1, "7", 0, 0.0, outcome="wrong"), 99.0, "training", "failed"),
        (job("CANCELLED"), RUNNING, 99.0, "training", "cancelled"),
        (job("FAILED"), None, None, None, "failed"),
        (None, None, None, None, "new"),
    ],
)
def test_slurm_and_the_run_are_told_apart(
    tmp_path: Path, known: slurm.Job | None, newest: Start | None, age: float | None, phase: str | None, expected: str
) -> None:
    assert judge(Folder(tmp_path), known, newest, age, phase, None)[0] == expected


def test_what_is_over_is_over_although_slurm_cannot_be_asked(tmp_path: Path) -> None:
    folder, away = Folder(tmp_path), "no SLURM on this machine"
    wrong = Start(1, "7", 0, 0.0, outcome="wrong")
    assert judge(folder, None, wrong, 99.0, "training", away) == ("failed", away)
    assert judge(folder, None, ENDED, 99.0, "training", away) == ("disagree", away)
    folder.path.mkdir()
    folder.cancelled.write_text("")
    assert judge(folder, None, ENDED, 99.0, "training", away) == ("cancelled", away)


def test_what_cannot_be_is_one_line(
    capsys: pytest.CaptureFixture[str], cluster: Callable[[str, str], None], tmp_path: Path
) -> None:
    assert "--watch: found -1, expected seconds above 0" in said(capsys, "status", str(tmp_path), "--watch", "-1")
    assert "/proc/none: cannot be written to" in said(capsys, "preflight", "--folder", "/proc/none")


def test_each_sweep_has_its_line_in_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("one/a/seed0", "one/b/seed0", "two/a/seed0", "alone"):
        begin(Folder(tmp_path / place), Token("local-0", 0), ["localhost"], 0)
        (tmp_path / place / "config.yaml").write_text("")
    for home in ("one", "two"):
        write_json(tmp_path / home / "launch" / "sweep.json", {"settings": {}})
    assert main(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "sweep one: 2 runs: 2" in out
    assert "sweep two: 1 run: 1" in out
    assert "\n4 runs: 4" in out


def test_status_of_a_damaged_record_of_starts(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    begin(folder, Token("7", 0), ["n1"], 0)
    begin(folder, Token("7", 1), ["n1"], 0)
    text = folder.starts.read_text()
    folder.starts.write_text(text.replace('"restart": 0', '"restart": "x"', 1))
    assert [start.number for start in starts(folder)] == [2]


def test_status_knows_a_run_although_slurm_cannot_be_asked(
    bin_: Callable[[str, str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sbatch", "srun"):
        bin_(name, "exit 0")
    for name in ("squeue", "sacct"):
        bin_(name, 'echo "error: Unable to contact slurm controller" >&2; exit 1')
    folder = Folder(tmp_path / "runs" / "a")
    write_json(folder.job, {"job": "7", "cluster": "slurm"})
    folder.config.write_text("")
    begin(folder, Token("7", 0), ["n1"], 4)
    write_json(folder.heartbeat, {"token": "7.0", "time": time.time(), "phase": "training", "last_step": 5})
    assert main(["status", str(tmp_path / "runs"), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["run"], row["state"], row["step"]) == ("a", "running", 5)
    assert "Unable to contact" in row["note"]


def test_settings_of_a_local_sweep_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.cluster.local.alive", lambda job, _: True)
    runs = [tmp_path / name for name in ("first", "second")]
    for k, run in enumerate(runs):
        Folder(run).path.mkdir(parents=True)
        write_json(Folder(run).job, {"job": f"local-7_{k}"})
    begin(Folder(runs[0]), Token("local-7_0", 0), ["localhost"], 1)
    assert [(row.state, row.note) for row in rows(runs, tmp_path)] == [
        ("starting", None), ("waiting", "after the settings before it"),
    ]  # fmt: skip


def test_runs_are_found_at_any_depth_and_their_own_folders_are_not_searched(tmp_path: Path) -> None:
    for place in ("a/seed0", "b"):
        (tmp_path / place / "launch" / "code-1" / "x" / "launch").mkdir(parents=True)
        (tmp_path / place / "config.yaml").write_text("")
        (tmp_path / place / "launch" / "code-1" / "x" / "config.yaml").write_text("")
    assert find_runs(tmp_path) == [tmp_path / "a/seed0", tmp_path / "b"]


def test_resources_of_a_job_survive_the_way_through_its_folder() -> None:
    asked = Resources(nodes=2, environment={"A": "1"}, sbatch={"reservation": "x"})
    assert Resources.model_validate(json.loads(json.dumps(asked.model_dump()))) == asked


@pytest.mark.slow  # what comes back in tests/slurm comes back by the same code
@pytest.mark.timeout(280)
def test_a_local_job_comes_back_after_a_kill_and_ends_bit_equal(tiny_config: MakeConfig, tmp_path: Path) -> None:
    without_keepers = {"every_steps": 5, "snapshot_seconds": 0}
    config = tiny_config(epochs=24, eval__every_epochs=12.0, precision__device="cpu", checkpoint=without_keepers)
    (tmp_path / "mine.yaml").write_text(to_yaml(config))
    words = ["submit", str(tmp_path / "mine.yaml"), "--run-dir", str(tmp_path / "killed")]
    assert main([*words, "--cluster", "local", "--gpus-per-node", "0", "--cpus-per-rank", "1"]) == 0
    killed = Folder(tmp_path / "killed")
    until(lambda: read_json(killed.heartbeat).get("last_step", 0) > 6 or killed.result.exists())
    os.kill(int(read_json(killed.heartbeat)["pid"]), signal.SIGKILL)
    assert train(config, tmp_path / "clean") == 0
    until(lambda: starts(killed)[-1].outcome == "done")
    assert [a.outcome for a in starts(killed)] == ["lost", "done"]
    assert "left no word" in str(starts(killed)[0].error)
    assert_same_run(tmp_path / "clean", tmp_path / "killed")


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
