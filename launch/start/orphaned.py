"""What keepers do whose first node is gone, and with it the launcher that would have queued the job again."""

import sys
import time
from collections.abc import Sequence

from launch.cluster import slurm
from launch.ledger import Folder

_LAUNCHER_S = 8.0
"""How long the launcher may be silent, which speaks every two seconds."""
_AFTER_ANOTHER_S = 15.0
"""How long a node leaves it to each node before it."""


def queue_again(folder: Folder, token: str, nodes: Sequence[str], own: str) -> None:
    """Queue the job again, once: the first node that is left does it. Nothing where the launcher still lives.

    token: of this start; a newer one is left alone. nodes: of the job, in order.
    """
    before = folder.launcher_said()
    time.sleep(_LAUNCHER_S + _AFTER_ANOTHER_S * (nodes.index(own) - 1))
    if folder.launcher_said() != before:
        return
    job, _, restart = token.rpartition(".")
    problem = slurm.requeue(job, int(restart))
    text = problem or "the job is queued again"
    print(f"masksup: nothing is heard of the first node, {nodes[0]}; {text}", file=sys.stderr, flush=True)
