"""masksup-launch preflight --throughput: how long a configuration takes on what its job would get."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launch.cluster.checks import refuse_absent, refuse_full
from launch.cluster.resources import Resources
from launch.ledger import read_json
from launch.start import first_node, here
from launch.start.throughput import CONFIG, RATES
from launch.submit import check_ranks
from masksup.base.files import write_atomically
from masksup.config.load import load_config, to_yaml
from masksup.errors import UserError

if TYPE_CHECKING:
    from masksup.doctor.throughput import Rates

MODULE = "launch.start.throughput"


def rates_of(
    file: Path, overrides: list[str], seconds: float, folder: Path, resources: Resources,
    cluster: Literal["slurm", "local"],
) -> "tuple[Rates | None, int]":  # fmt: skip
    """What all ranks measured together, or None, and the exit status: with another than 0 a rank has told why.

    UserError for a wrong configuration, before any rank starts. `folder`: of a file system that all nodes share; what
    is written there meanwhile is removed.
    """
    if not 0 < seconds <= 3600:
        raise UserError(f"--seconds: found {seconds:g}, expected above 0 and at most 3600")
    config = load_config(file, overrides)[0]
    check_ranks([], [config], resources)
    if cluster == "slurm":
        refuse_absent()
    refuse_full(folder)
    with tempfile.TemporaryDirectory(prefix=".throughput-", dir=folder) as kept:
        write_atomically(Path(kept) / CONFIG, to_yaml(config))
        words = [kept, str(file), str(seconds)]
        if cluster == "local":
            status = here.on_this_machine(MODULE, words, resources.on(resources.fewest_nodes))
        else:
            status = first_node.on_nodes(MODULE, words, resources, output=2)
        found = read_json(Path(kept) / RATES)
    if status or not found:
        return None, status or 1
    from masksup.doctor.throughput import Rates

    return Rates(**found), 0
