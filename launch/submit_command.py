"""masksup-launch submit: one run."""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from launch.cluster import sbatch_script
from launch.cluster.checks import NoAnswer, check_resources, node_local
from launch.cluster.resources import Resources
from launch.ledger import Folder
from launch.start import first_node
from launch.submit import check_ranks, check_runs, missing_data, submit, work_on
from masksup.config.conflicts import too_many_ranks
from masksup.config.load import load_config, to_yaml
from masksup.config.schema import Config


def submit_one(
    file: Path, overrides: list[str], run_dir: Path | None, resources: Resources, cluster: str, dry_run: bool
) -> int:
    """Submit, or with `dry_run` show, one run; returns at once."""
    config, _ = load_config(file, overrides)
    run = (run_dir or Path("runs") / file.stem).absolute()
    warn([run], config, resources, cluster)
    if dry_run:
        show(run, config, resources, cluster)
        return 0
    done = submit([(run, config)], resources, cluster, f"masksup-{run.name}", Folder(run).path)[0]
    print(f"job         {done.job}")
    print(f"run folder  {run}")
    print(f"state       masksup-launch status {shlex.quote(str(run.parent))}")
    print(f"curves      tensorboard --logdir {shlex.quote(str(run.parent))}")
    return 0


def warn(runs: list[Path], config: Config, resources: Resources, cluster: str) -> None:
    """What is most likely a mistake, but may be meant."""
    for path in missing_data(config):
        print(f"masksup-launch: warning: {path}: no such index on this machine", file=sys.stderr)
    surplus = too_many_ranks(config, resources.world)
    if surplus and resources.fewest_nodes < resources.most_nodes:  # a fixed number is refused
        print(f"masksup-launch: warning: nodes: {resources.nodes}: {surplus}", file=sys.stderr)
    kind = node_local(runs[0]) if cluster == "slurm" else None
    if kind is not None:
        print(
            f"masksup-launch: warning: {runs[0]}: lies on {kind}, which other nodes most likely do not see",
            file=sys.stderr,
        )


def show(run: Path, config: Config, resources: Resources, cluster: str) -> None:
    """The exact script, the start of the ranks and the configuration, touching nothing."""
    check_as_shown([run], [config], resources, cluster)
    check_runs([(run, config)])
    if cluster == "slurm":
        home = Folder(run).path
        work = work_on([(run, config)], resources, f"masksup-{run.name}", home)
        print(sbatch_script.text(work, resources))
        print(first_node.shown(work, resources))
    print(f"# {run / 'config.yaml'}")
    print(to_yaml(config), end="")


def check_as_shown(runs: Iterable[Path], configs: Iterable[Config], resources: Resources, cluster: str) -> None:
    """As before a submission; but what would be submitted can be shown where no SLURM answers."""
    try:
        check_resources(resources, cluster)
    except NoAnswer as error:
        print(f"masksup-launch: warning: {error}; not compared with what the cluster has", file=sys.stderr)
    check_ranks(runs, configs, resources)
