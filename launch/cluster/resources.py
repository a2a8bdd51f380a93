"""What a job asks of a cluster: defaults of the site from one YAML file, options of the command line on top."""

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from launch.cluster.gres import gpus_in, read_gpus
from launch.cluster.options import refuse_own
from launch.cluster.safe import refuse_unsafe, refuse_variables
from masksup.config.yaml_text import read_yaml
from masksup.errors import UserError, nearest

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]


_NONE_IF_EMPTY = (
    "mem",
    "partition",
    "account",
    "qos",
    "constraint",
    "exclude",
    "comment",
    "gres",
    "container",
    "python",
)


class Resources(BaseModel):
    """Each field is an option of `masksup-launch submit` and a key of the site's YAML file."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True,
        coerce_numbers_to_str=True,  # `time: 30`, `account: 1234`
    )  # fmt: skip

    nodes: int | str = 1
    """Nodes of a run: 2, or a range such as 1-4, from which SLURM gives what is free at each start. The number of ranks
    changes no bit of the result (`parallel.sum: tree`)."""
    gpus_per_node: int | str = 1
    """GPUs on each node, 2 or with their type a100:2; one rank runs on each. 0: ranks on the CPU."""
    gres: str | None = None
    """Generic resources of a node, for sites that want GPUs so (gpu:a100:2); its GPUs count as `gpus_per_node`."""
    ranks_per_node: Count = 1
    """Ranks on each node where `gpus_per_node` is 0."""
    cpus_per_rank: Count = 4
    """CPU cores of a rank: loader workers and the training thread."""
    mem: str | None = None
    """Memory of a node, as SLURM writes it (64G); none: the partition's default."""
    time: str = "24:00:00"
    """Time limit of a start: minutes, H:MM:SS or D-HH:MM:SS. A run that reaches it saves and goes on in the next."""
    partition: str | None = None
    """Partition; none, or "" over that of the site: the cluster's default."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the nodes must have."""
    exclude: str | None = None
    """Nodes not to use."""
    comment: str | None = None
    """Free text that squeue and sacct show."""
    signal_seconds: Count = 90
    """How long before the time limit SLURM asks the job to save and leave. Its clock is coarse: at least 60."""
    array_parallel: Count = 8
    """Elements of a sweep that run at once."""
    container: str | None = None
    """Command that runs a rank in a container, such as `apptainer exec --nv masksup.sif`."""
    python: str | None = None
    """Python of the ranks; none: the one that submits. Set it with `container`."""
    environment: dict[str, str] = {}
    """Variables that the ranks get."""
    setup: list[str] = []
    """Lines of bash for the batch script, before the start, such as `module load cuda`."""
    sbatch: dict[str, str] = {}
    """Further options of sbatch by name, such as {reservation: maintenance}. An empty value makes a bare flag."""
    srun: dict[str, str] = {}
    """Further options of srun, which starts the ranks, such as {mpi: pmix, cpu-bind: none}."""
    preflight: bool = False
    """Check GPUs, network, disk and clocks when the job starts, before it trains."""
    max_failures: NotNegative = 3
    """Crashes and lost nodes without any progress since the one before, after which a run is not started again."""
    max_losses: NotNegative = 20
    """Crashes and lost nodes in all."""
    max_preemptions: NotNegative = 1000
    """Preemptions after which a run is not started again."""
    max_timeouts: NotNegative = 1000
    """Time limits reached after which a run is not started again."""

    @field_validator("sbatch", "srun", mode="before")
    @classmethod
    def _flags(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: "" if given is True else given for name, given in value.items()}

    @field_validator(*_NONE_IF_EMPTY, mode="before")
    @classmethod
    def _none_if_empty(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("nodes", mode="after")
    @classmethod
    def _known_nodes(cls, value: int | str) -> int | str:
        found = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", str(value))
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise ValueError(
                "expected a number from 1, or a range such as 1-4 whose second number is not below the first"
            )
        return int(found[1]) if found[2] in (None, found[1]) else str(value)

    @field_validator("gpus_per_node", mode="after")
    @classmethod
    def _known_gpus(cls, value: int | str) -> int | str:
        found = read_gpus(str(value))
        if found is None:
            raise ValueError("expected a number, or a type and a number such as a100:2")
        return value if found[0] is not None else found[1]

    @field_validator("container", mode="after")
    @classmethod
    def _closed_quotes(cls, value: str | None) -> str | None:
        shlex.split(value or "")
        return value

    @model_validator(mode="after")
    def _gpus_once(self) -> Self:
        """GPUs in `gres` stand for `gpus_per_node`, which must not say something else."""
        counted = sum(gpus_in(self.gres or "").values())
        if counted and "gpus_per_node" in self.model_fields_set and self.gpus != counted:
            raise ValueError(f"gpus_per_node: found {self.gpus_per_node}, but gres asks for {self.gres}; change gres")
        if counted:
            object.__setattr__(self, "gpus_per_node", counted)
        return self

    @property
    def gpus(self) -> int:
        """GPUs on a node."""
        found = read_gpus(str(self.gpus_per_node))
        return found[1] if found else 0

    @property
    def gpu_request(self) -> dict[str, str]:
        """The options of sbatch and srun that ask for GPUs and the like."""
        asked = {} if self.gres is None else {"gres": self.gres}
        if self.gpus and not gpus_in(self.gres or ""):
            asked["gpus-per-node"] = str(self.gpus_per_node)
        return asked

    @property
    def ranks_on_a_node(self) -> int:
        return self.gpus or self.ranks_per_node

    @property
    def fewest_nodes(self) -> int:
        return int(str(self.nodes).partition("-")[0])

    @property
    def most_nodes(self) -> int:
        return int(str(self.nodes).rpartition("-")[2])

    @property
    def fewest_ranks(self) -> int:
        """Without which a run does not go on."""
        return self.fewest_nodes * self.ranks_on_a_node

    @property
    def world(self) -> int:
        """Ranks of a run, at most."""
        return self.most_nodes * self.ranks_on_a_node

    def on(self, nodes: int) -> Self:
        """These resources as a start has them that was given so many nodes out of a range.

        On this machine, which stands for all of them, it has the fewest.
        """
        given = max(nodes, self.fewest_nodes)
        return self.model_copy(update={"nodes": given}) if self.fewest_nodes < self.most_nodes else self

    @property
    def limit_seconds(self) -> int:
        return seconds(self.time)


def site_file() -> Path:
    """Where a site is described once for a user."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "masksup" / "cluster.yaml"


def read_resources(file: Path | None, layers: Mapping[str, dict[str, Any]]) -> Resources:
    """`layers`, the last one on top, over the site's `file` (None: the user's own, if there is one) over the defaults.

    layers: origin, as errors name it -> keys. `environment` and `sbatch` are joined, name by name. UserError naming
    origin and key.
    """
    path = file or site_file()
    tree = read_yaml(path) if file is not None or path.is_file() else {}
    return joined({str(path): tree, **layers})


def joined(layers: Mapping[str, dict[str, Any]]) -> Resources:
    """The layers, checked one by one and joined."""
    for origin, layer in layers.items():
        _check(layer, origin)
    resources = _check(_join(layers.values()), " and ".join(layers))
    seconds(resources.time)
    return resources


def _join(layers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = tree.get(key)
            tree[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return tree


def _check(tree: dict[str, Any], origin: str) -> Resources:
    try:
        found = Resources.model_validate(tree)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            raise UserError(f"{origin}: {key}: unknown key; {nearest(key, Resources.model_fields)}") from None
        said = problem["msg"].removeprefix("Value error, ")
        if not key:
            raise UserError(f"{origin}: {said}") from None
        raise UserError(f"{origin}: {key}: found {problem['input']!r}; {said[0].lower()}{said[1:]}") from None
    refuse_unsafe(origin, found.model_dump())
    refuse_variables(f"{origin}: environment", found.environment)
    for command, options in (("sbatch", found.sbatch), ("srun", found.srun)):
        try:
            refuse_own(command, options)
        except UserError as error:
            raise UserError(f"{origin}: {error}") from None
    return found


def seconds(time: str) -> int:
    """A time limit in seconds. SLURM's own forms: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", time):
        raise UserError(f"time: found {time!r}, expected minutes, H:MM:SS or D-HH:MM:SS")
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, secs = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, secs = numbers
    else:
        hours, (minutes, secs) = 0, [*numbers, 0][:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs
