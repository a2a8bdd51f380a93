"""masksup-launch sweep: one job array, one element a setting; again, only what is missing or failed."""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from launch.cluster import sbatch_script
from launch.cluster.active import look
from launch.cluster.resources import Resources, read_resources
from launch.ledger import Folder, read_json, starts, write_json
from launch.start import first_node
from launch.start.decide import crashes_in_vain
from launch.submit import check_runs, submit, work_on
from launch.submit_command import check_as_shown, warn
from launch.sweeps import guided
from launch.sweeps.results import show_results, write_results
from launch.sweeps.settings import Named, Setting, read_sweep, settings
from masksup.base.words import counted
from masksup.errors import UserError
from masksup.runtime.run_folder import refuse_other_config


def sweep(
    file: Path, folder: Path | None, cluster_config: Path | None, options: dict[str, Any], cluster: str, dry_run: bool
) -> int:
    """Submit the settings of a file that have no result and no job."""
    asked = read_sweep(file)
    limit = {"array_parallel": asked.parallel} if asked.parallel else {}
    resources = read_resources(cluster_config, {f"{file}: resources": asked.resources | limit, "command line": options})
    home = (folder or Path("runs") / file.stem).absolute()
    found, proposed = settings_now(file, home)
    todo, done, active = sort_out(home, found)
    if dry_run:
        return _show(home, todo, done, active, resources, cluster)
    if todo:
        note(home, file, found, proposed)
        warn([home], todo[0].config, resources, cluster)
        submitted = submit(
            [(home / s.folder, s.config) for s in todo], resources, cluster, f"masksup-{home.name}", home / "launch"
        )
        print(f"job         {submitted[0].job.partition('_')[0]}, an array of {len(submitted)}")
        crashes = [count for s in todo if (count := crashes_in_vain(starts(Folder(home / s.folder))))]
        if crashes:
            print(f"forgiven    {counted(sum(crashes), 'crash')} of {counted(len(crashes), 'setting')}, counted anew")
    print(f"settings    {len(found)}: {len(todo)} submitted, {len(active)} active, {len(done)} finished")
    if asked.guided and len(proposed) < asked.guided.count:
        print(f"guided      {len(proposed)} of {asked.guided.count}; the same command again proposes more")
    print(f"sweep       {home}")
    print(f"state       masksup-launch status {shlex.quote(str(home))}")
    print(f"curves      tensorboard --logdir {shlex.quote(str(home))}")
    if not todo and not active:
        write_results(home)
        show_results(home)
    return 0


def settings_now(file: Path, home: Path) -> tuple[list[Setting], Named]:
    """All settings of a file, and which of them a guided search has proposed up to now."""
    search = read_sweep(file).guided
    proposed = guided.propose(str(file), search, home) if search else []
    return settings(file, proposed), proposed


def sort_out(home: Path, found: list[Setting]) -> tuple[list[Setting], list[Setting], list[Setting]]:
    """Settings to submit, finished, and active; UserError where a folder holds another configuration."""
    if (home / "config.yaml").exists():
        raise UserError(f"{home}: found a run, expected the folder of a sweep or a new name; use another --sweep-dir")
    todo, done, active = [], [], []
    folders = {setting.folder: Folder(home / setting.folder) for setting in found}
    seen = look(folders.values())
    for setting in found:
        folder = folders[setting.folder]
        if folder.config.exists():
            refuse_other_config(folder.run, setting.config)
        if folder.result.exists() or folder.stopped_early.exists():
            done.append(setting)
        elif seen[folder].active:
            active.append(setting)
        else:
            todo.append(setting)
    check_runs((home / setting.folder, setting.config) for setting in todo)
    return todo, done, active


def note(home: Path, file: Path, found: list[Setting], proposed: Named) -> None:
    """Keep what the sweep consists of, for its table, whatever becomes of the file."""
    asked = read_sweep(file)
    if proposed:
        guided.keep(home, proposed)
    old = read_json(home / "launch" / "sweep.json").get("settings", {})
    new = {
        setting.folder: {"name": setting.name, "seed": setting.seed, "overrides": list(setting.overrides)}
        for setting in found
    }
    base = os.path.abspath(file.parent / asked.base)  # noqa: PTH100  (resolve() would follow links)
    write_json(home / "launch" / "sweep.json", {
        "file": str(file.absolute()), "base": base, "time": time.time(),
        "halving": asked.halving.model_dump() if asked.halving else None, "settings": {**old, **new},
    })  # fmt: skip


def _show(
    home: Path, todo: list[Setting], done: list[Setting], active: list[Setting], resources: Resources, cluster: str
) -> int:
    for word, group in (("finished", done), ("active", active), ("to submit", todo)):
        for setting in group:
            print(f"{word:9}  {setting.folder}  {' '.join(setting.overrides)}")
    if todo and cluster == "slurm":
        try:
            runs = tuple(home / s.folder for s in todo)
            check_as_shown(runs, [s.config for s in todo], resources, cluster)
            pairs = [(home / s.folder, s.config) for s in todo]
            work = work_on(pairs, resources, f"masksup-{home.name}", home / "launch")
            print(sbatch_script.text(work, resources))
            print(first_node.shown(work, resources))
        except UserError as error:
            print(f"masksup-launch: {error}", file=sys.stderr)
            return 2
    return 0
