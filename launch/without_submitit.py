"""The same without submitit: what slurm/train.sbatch and slurm/sweep.sbatch run on the first node of their job.

python -P -m launch.without_submitit train CONFIG [key=value ...]
python -P -m launch.without_submitit sweep SWEEP.yaml
"""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from launch.cluster import slurm
from launch.cluster.active import look, recognise, remember
from launch.cluster.checks import refuse_full
from launch.cluster.gres import gpus_in
from launch.cluster.options import words
from launch.cluster.resources import Resources, joined
from launch.cluster.safe import refuse_folders
from launch.cluster.snapshot import snapshot
from launch.ledger import Folder, read_json
from launch.start import first_node
from launch.submit import check_runs, prepare_folder
from launch.sweep_command import note, settings_now, sort_out
from launch.sweeps import guided
from launch.sweeps.settings import read_sweep, settings
from masksup.base.words import counted
from masksup.config.conflicts import refuse_ranks
from masksup.config.load import load_config
from masksup.config.schema import Config
from masksup.errors import UserError
from masksup.exits import status_of

_NOTHING = ("", "(null)", "N/A")  # as scontrol writes what was not asked for


def main(arguments: list[str]) -> int:
    """Exit status of the batch job."""
    return status_of("masksup", _run, *arguments)


def _run(kind: str, file: str, *more: str) -> int:
    if "SLURM_JOB_ID" not in os.environ or kind not in ("train", "sweep"):
        raise UserError("launch.without_submitit: expected to be run by slurm/train.sbatch or slurm/sweep.sbatch")
    return _train(Path(file), list(more)) if kind == "train" else _sweep(Path(file))


def _train(file: Path, overrides: list[str]) -> int:
    run = Path(os.environ.get("MASKSUP_RUN_DIR") or Path("runs") / file.stem).absolute()
    folder = Folder(run)
    if not _is_ours(folder):  # the first start: later ones use what it wrote
        config, _ = load_config(file, overrides)
        _take(folder, config, of_this_job(os.environ), folder.path)
    return _with_its_code(folder, run)


def _is_ours(folder: Folder) -> bool:
    """Whether an earlier start of this very job has taken the run."""
    seen = look([folder])[folder]
    return seen.job == first_node.own_token(os.environ).job and seen.stranger is None


def _take(folder: Folder, config: Config, resources: Resources, home: Path) -> None:
    """Make the run this job's."""
    refuse_folders([folder.run])
    refuse_ranks(config, resources.world)
    check_runs([(folder.run, config)])
    refuse_full(home)
    prepare_folder(folder, config, resources, "slurm", snapshot(home), home)
    own = {first_node.own_token(os.environ).job: folder}
    remember(own, os.environ.get("SLURM_JOB_NAME", ""))
    recognise(own)


def _sweep(file: Path) -> int:
    home = (Path("runs") / file.stem).absolute()
    if "SLURM_ARRAY_TASK_ID" not in os.environ:
        return _spread(file, home)
    elements = Path(os.environ["MASKSUP_ELEMENTS"])
    run = first_node.chosen(["--elements", str(elements)], os.environ)
    folder = Folder(run)
    if not _is_ours(folder):
        setting = next(s for s in settings(file, guided.kept(home)) if home / s.folder == run)
        _take(folder, setting.config, resources_of_sweep(file, os.environ), home / "launch")
    return _with_its_code(folder, run)


def _spread(file: Path, home: Path) -> int:
    """The job that was submitted by hand becomes an array over the settings that are missing, and ends."""
    found, proposed = settings_now(file, home)
    todo, done, active = sort_out(home, found)
    print(
        f"{counted(len(found), 'setting')}: {len(todo)} to run, {len(active)} active, {len(done)} finished", flush=True
    )
    if not todo:
        return 0
    refuse_folders(home / setting.folder for setting in todo)
    note(home, file, found, proposed)
    elements = home / "launch" / f"elements-{os.environ['SLURM_JOB_ID']}"
    elements.write_text("".join(f"{home / setting.folder}\n" for setting in todo), encoding="utf-8")
    resources = resources_of_sweep(file, os.environ)
    at_once = read_sweep(file).parallel or resources.array_parallel
    script = slurm.call("scontrol", "write", "batch_script", os.environ["SLURM_JOB_ID"], "-")
    copy = home / "launch" / "sweep.sbatch"
    copy.write_text(script, encoding="utf-8")
    job = slurm.call(
        "sbatch", "--parsable", f"--array=0-{len(todo) - 1}%{at_once}", f"--output={home}/launch/%A_%a.out",
        *sbatch_options(resources), *_signal(file), "--export=ALL", str(copy), str(file),
        environment={"MASKSUP_ELEMENTS": str(elements)},  # as an option a comma would split it
    )  # fmt: skip
    print(f"array {job.strip()} of {len(todo)}: masksup-launch status {shlex.quote(str(home))}")
    return 0


def sbatch_options(resources: Resources) -> list[str]:
    """What an element asks for. Options given to sbatch on its command line are in no script, so all are repeated."""
    given = {
        "nodes": resources.nodes, "ntasks-per-node": resources.ranks_on_a_node,
        **(resources.gpu_request or {"gpus-per-node": "0"}), "cpus-per-task": resources.cpus_per_rank,
        "mem": resources.mem,
        "time": resources.time, "partition": resources.partition, "account": resources.account, "qos": resources.qos,
        "constraint": resources.constraint, "exclude": resources.exclude, "comment": resources.comment,
        **resources.sbatch,
    }  # fmt: skip
    return words({name: str(value) for name, value in given.items() if value is not None})


def _signal(file: Path) -> list[str]:
    seconds = read_sweep(file).resources.get("signal_seconds")  # else that of the script
    return [] if seconds is None else [f"--signal=USR2@{seconds}"]


def resources_of_sweep(file: Path, environment: Mapping[str, str]) -> Resources:
    """What an element asks for: this job's own options, with `resources` of the sweep file on top."""
    own = of_this_job(environment).model_dump(exclude_unset=True)
    asked = read_sweep(file).resources
    if asked.get("setup"):
        raise UserError(f"{file}: resources.setup: found {asked['setup']}, expected these lines in the sbatch script")
    return joined({"this job": own, f"{file}: resources": asked})


def _with_its_code(folder: Folder, run: Path) -> int:
    """Go on in the snapshot, by a new program: modules that are loaded already are those of the checkout."""
    code = read_json(folder.job)["code"]
    os.environ["PYTHONPATH"] = str(code)
    newer = (Path(code) / "launch" / "start" / "first_node.py").is_file()
    module = "launch.start.first_node" if newer else "launch.batch"  # in the copies of earlier versions
    os.execv(sys.executable, [sys.executable, "-P", "-u", "-m", module, str(run)])


def of_this_job(environment: Mapping[str, str]) -> Resources:
    """What the job was given, as the launcher would have asked for it."""
    fields = slurm.fields(environment["SLURM_JOB_ID"])
    nodes = int(environment.get("SLURM_JOB_NUM_NODES", "1"))
    tasks = int(re.split(r"[(,]", environment.get("SLURM_TASKS_PER_NODE", "1"))[0])
    gpus = len([device for device in environment.get("SLURM_JOB_GPUS", "").split(",") if device])
    kinds = {kind for kind in gpus_in(fields.get("TresPerNode", "")) if kind}
    if gpus not in (0, tasks):
        raise UserError(
            f"--ntasks-per-node: found {tasks} for {counted(gpus, 'GPU')} on a node, expected one task a GPU"
        )
    words = {
        "partition": "Partition", "account": "Account", "qos": "QOS", "constraint": "Features",
        "exclude": "ExcNodeList", "comment": "Comment", "time": "TimeLimit",
    }  # fmt: skip
    said = {key: fields.get(word, "") for key, word in words.items()}
    more = {"mem-per-cpu": fields.get("MinMemoryCPU", ""), "reservation": fields.get("Reservation", "")}
    return Resources(
        nodes=nodes, gpus_per_node=f"{kinds.pop()}:{gpus}" if gpus and len(kinds) == 1 else gpus, ranks_per_node=tasks,
        cpus_per_rank=int(environment.get("SLURM_CPUS_PER_TASK", "1")),
        mem=environment.get("SLURM_MEM_PER_NODE") or None,
        sbatch={key: value for key, value in more.items() if value not in _NOTHING},
        **{key: value for key, value in said.items() if value not in _NOTHING},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
