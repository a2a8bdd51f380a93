"""One run to a cluster: everything is checked before anything is submitted."""

import fcntl
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from launch.cluster import local, sbatch_script, slurm
from launch.cluster.active import Seen, look, recognise, remember
from launch.cluster.checks import check_resources, refuse_full
from launch.cluster.resources import Resources
from launch.cluster.safe import refuse_folders
from launch.cluster.snapshot import place_of, snapshot
from launch.ledger import Folder, job_of, write_json
from launch.start.start import module_for, outlives_nodes
from masksup.base.files import write_atomically
from masksup.config.auto import adds_as_tree, with_sum
from masksup.config.conflicts import refuse_ranks, refuse_zero
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.errors import UserError
from masksup.runtime.run_folder import as_in_folder, refuse_other_config, refuse_other_data


@dataclass(frozen=True)
class Submitted:
    job: str
    run: Path


def submit(
    runs: list[tuple[Path, Config]], resources: Resources, cluster: str, name: str, home: Path
) -> list[Submitted]:
    """Submit runs that are neither active nor finished: one job, or one array. `home` keeps code and scripts."""
    done = hand_in(runs, resources, cluster, name, home)
    recognise({row.job: Folder(row.run) for row in done})
    return done


def hand_in(
    runs: list[tuple[Path, Config]],
    resources: Resources,
    cluster: str,
    name: str,
    home: Path,
    seen: Mapping[Folder, Seen] | None = None,
) -> list[Submitted]:
    """`submit` without its last question to SLURM (`recognise`), and with `seen` without its first: so that many
    submissions ask as often as one."""
    folders = [Folder(run) for run, _ in runs]
    check_resources(resources, cluster)
    check_ranks([run for run, _ in runs], [config for _, config in runs], resources)
    with _nothing_left(home, *(folder.run for folder in folders)), _alone(home):
        check_runs(runs, seen)
        work = work_on(runs, resources, name, home)
        if cluster == "slurm":
            try_out(work, resources)
        snapshot(home)
        for folder, (_, config) in zip(folders, runs):
            prepare_folder(folder, config, resources, cluster, work.code, home)
        jobs = sbatch_script.submit(work, resources) if cluster == "slurm" else local.submit(work)
    remember(dict(zip(jobs, folders)), name)
    return [Submitted(job, folder.run) for folder, job in zip(folders, jobs)]


def work_on(runs: list[tuple[Path, Config]], resources: Resources, name: str, home: Path) -> sbatch_script.Work:
    """What the job of these runs is to do."""
    outlives = outlives_nodes(resources, *(config for _, config in runs))
    module = module_for(runs[0][1])
    return sbatch_script.Work(name, tuple(run for run, _ in runs), place_of(home), home / "submitit", module, outlives)


@contextmanager
def _nothing_left(*folders: Path) -> Iterator[None]:
    """Remove what a submission that fails has made: whole folders that were not there before."""
    new = [folder for folder in folders if not folder.exists()]
    above = [path for folder in new for path in folder.parents if not path.exists()]
    try:
        yield
    except BaseException:
        for folder in new:
            shutil.rmtree(folder, ignore_errors=True)
        for path in sorted(set(above), reverse=True):
            with suppress(OSError):  # somebody else's work is there
                path.rmdir()
        raise


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One submission at a time: two of the same run would both find it free."""
    refuse_full(home)
    with (home / ".submitting").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{home}: another masksup-launch is submitting there right now") from None
        yield


def check_ranks(runs: Iterable[Path], configs: Iterable[Config], resources: Resources) -> None:
    """UserError for names of folders and numbers of ranks that are known to fail before any job is there."""
    refuse_folders(runs)
    sizes = range(resources.fewest_nodes, resources.most_nodes + 1)
    for config in configs:
        fits = sizes[0] if adds_as_tree(with_sum(config)) else sizes[-1]  # the tree leaves surplus ranks out
        refuse_ranks(config, fits * resources.ranks_on_a_node)
        for nodes in sizes:
            refuse_zero(config, nodes * resources.ranks_on_a_node)


def try_out(work: sbatch_script.Work, resources: Resources) -> None:
    """Let SLURM judge the script without submitting it."""
    work.keep.mkdir(parents=True, exist_ok=True)
    work.keep.chmod(0o700)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix=".try-", suffix=".sh", dir=work.keep) as file:
        file.write(sbatch_script.text(work, resources))
        file.flush()
        try:
            slurm.call("sbatch", "--test-only", file.name)
        except UserError as error:
            said = re.sub(r"^(allocation failure|sbatch): ", "", str(error))
            raise UserError(f"SLURM refuses the job: {said}") from None


def check_runs(runs: Iterable[tuple[Path, Config]], seen: Mapping[Folder, Seen] | None = None) -> None:
    """UserError where a folder is another configuration's, finished, or in work.

    seen: what SLURM said of them a moment ago, which holds unless a run was submitted since.
    """
    found = {Folder(run): config for run, config in runs}
    for folder, config in found.items():
        if folder.config.exists():
            refuse_other_config(folder.run, config)
            refuse_other_data(folder.run, config)
        elif folder.run.is_dir() and any(path.name != "launch" for path in folder.run.iterdir()):
            raise UserError(f"{folder.run}: found a folder that is not a run, expected a run folder or a new name")
        if folder.result.exists():
            raise UserError(f"{folder.run}: this run is finished; its scores are in {folder.result}")
    for folder, known in (look(found) if seen is None else seen).items():
        job = job_of(folder)
        if known.active or job != known.job:
            raise UserError(f"{folder.run}: job {job} already works on this run or waits to; cancel it first")


def prepare_folder(folder: Folder, config: Config, resources: Resources, cluster: str, code: Path, home: Path) -> None:
    """Make the run folder with its configuration, or enter it, and note what its job asks for."""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.path.chmod(0o700)
    (folder.run / "logs").mkdir(exist_ok=True)
    folder.cancelled.unlink(missing_ok=True)
    # Also over another operation, which the ranks read there.
    write_atomically(folder.config, to_yaml(as_in_folder(folder.run, config)))
    row = {"job": None, "cluster": cluster, "code": str(code), "home": str(home), "resources": resources.model_dump()}
    write_json(folder.job, row)


def missing_data(config: Config) -> Iterable[Path]:
    """Indexes of a configuration that this machine does not see."""
    for value in (config.data.train, config.data.eval, config.data.test):
        if value is not None and not Path(value).is_dir():
            yield Path(value)
