"""Whatever a person types either reaches SLURM and bash as it is, or is refused: nothing becomes a command."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from launch import without_submitit
from launch.cluster import sbatch_script
from launch.cluster.checks import refuse_full
from launch.cluster.options import OF_COMMAND, refuse_own
from launch.cluster.resources import Resources, joined
from launch.cluster.safe import refuse_folders
from masksup.errors import UserError

TEXT = st.text(st.sampled_from(list("ab \n\r\t'\"\\$`;&|<>(){}#%:!*~,=\u2028\x85é\ud800\x0b")), min_size=1, max_size=12)
# In the place of the launcher: it writes down its words and PYTHONPATH.
RECORD = 'env() { printf "%s\\0" "$PYTHONPATH" "$@" > "$RECORDED"; }\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with SLURM's commands, of which none is called."""
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def run_by_bash(text: str, scratch: Path) -> list[str]:
    """What bash makes of a batch script: PYTHONPATH and the words of the one command that it runs."""
    (scratch / "script").write_text(RECORD + text, encoding="utf-8")
    recorded = scratch / "recorded"
    recorded.unlink(missing_ok=True)
    done = subprocess.run(
        ["/bin/bash", "--norc", "-e", scratch / "script"], cwd=scratch, capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
        env={"RECORDED": str(recorded), "PATH": "/nowhere"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return recorded.read_text(encoding="utf-8").split("\0")[:-1]


def accepted(run: Path, options: dict[str, str]) -> Resources | None:
    try:
        refuse_folders([run])
        return joined({"command line": options})
    except UserError:
        return None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(TEXT, TEXT, TEXT)
@example("x\ntouch owned", "a", "a")
@example("x", "a\ntouch owned", "a")
@example("x", "x", "12:30")
@example("it's", "$(touch owned)", "a'b")
@example("x", "x", "50%j")
def test_no_text_becomes_a_command(here: Path, comment: str, account: str, name: str) -> None:
    run = here / "runs" / name
    resources = accepted(run, {"comment": comment, "account": account})
    if resources is None:
        return
    work = sbatch_script.Work(f"masksup-{run.name}", (run,), run / "code", run / "keep")
    text = sbatch_script.text(work, resources)
    pythonpath, *words = run_by_bash(text, here)
    assert pythonpath.split(":") == [str(work.code)]
    assert words[-1] == str(work.keep)
    directives = [shlex.split(line.removeprefix("#SBATCH ")) for line in text.split("\n") if line.startswith("#SBATCH")]
    for wanted in (f"--comment={comment}", f"--account={account}", f"--job-name={work.name}"):
        assert [wanted] in directives
    assert f"--output={work.keep}/%j_0_log.out" in [line[0] for line in directives]


@pytest.mark.parametrize("key", sorted(Resources.model_fields))
def test_every_key_that_holds_text_is_looked_at(key: str) -> None:
    kind = str(Resources.model_fields[key].annotation)
    bad = "a\nb"
    value = {"NAME": bad} if "dict" in kind else [bad] if "list" in kind else bad
    with pytest.raises(UserError):
        joined({"site": {key: value}})


@pytest.mark.parametrize("letter", ["%", ":", "\\"])
def test_a_folder_that_slurm_or_python_would_read_otherwise_is_refused(letter: str) -> None:
    with pytest.raises(UserError, match="run folder: found ") as told:
        refuse_folders([Path(f"/runs/50{letter}j")])
    assert repr(letter) in str(told.value)


def test_lines_of_setup_run_before_the_launcher_and_cannot_take_its_code_away(here: Path) -> None:
    resources = joined({"site": {"setup": ["export PYTHONPATH=/else/where", "MODULE=loaded; printf ''"]}})
    work = sbatch_script.Work("x", (here,), here / "code", here / "keep")
    assert run_by_bash(sbatch_script.text(work, resources), here)[0] == str(here / "code")


@pytest.mark.parametrize(
    ("command", "name"),
    [("sbatch", name) for name in ("array", "signal", "no-requeue", "gpus-per-node", "output", "outp", "arr", "wait")]
    + [("srun", name) for name in ("output", "kill-on", "ntasks", "export")]
    + [("sbatch", name) for name in ("x y", "a=b", "J", "two_words", "a\nb", "")],
)
def test_options_that_undo_the_launchers_own_are_refused_with_the_reason(command: str, name: str) -> None:
    with pytest.raises(
        UserError, match=rf"site(: {command}: found the option|\.{command}: found .*control).*expected|expected none"
    ):
        joined({"site": {command: {name: "1"}}})


def test_other_options_are_free() -> None:
    refuse_own("sbatch", ["reservation", "exclusive", "nice", "hold", "mem-per-cpu", "mail-type", "licenses", "begin"])
    refuse_own("srun", ["mpi", "cpu-bind", "gpu-bind", "mem-bind", "overlap"])
    assert not {"reservation", "exclusive"} & OF_COMMAND["sbatch"].keys()


@pytest.mark.parametrize("name", ["PYTHONPATH", "MASKSUP_TOKEN", "SLURM_PROCID", "A-B", "1A", ""])
def test_variables_that_the_launcher_sets_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="environment: found"):
        joined({"site": {"environment": {name: "x"}}})


@pytest.mark.parametrize(
    ("asked", "gpus", "request_"),
    [
        ({"gpus_per_node": "a100:2"}, 2, {"gpus-per-node": "a100:2"}),
        ({"gpus_per_node": "3"}, 3, {"gpus-per-node": "3"}),
        ({"gpus_per_node": 0}, 0, {}),
        ({"gres": "gpu:a100:2,nvme:1"}, 2, {"gres": "gpu:a100:2,nvme:1"}),
        ({"gres": "nvme:1", "gpus_per_node": 4}, 4, {"gres": "nvme:1", "gpus-per-node": "4"}),
        ({"gres": "gpu"}, 1, {"gres": "gpu"}),
    ],
)
def test_gpus_are_counted_however_they_are_asked_for(
    asked: dict[str, object], gpus: int, request_: dict[str, str]
) -> None:
    found = joined({"site": asked})
    assert (found.gpus, found.world, found.gpu_request) == (gpus, gpus or 1, request_)
    assert Resources.model_validate(found.model_dump()) == found
    if gpus:
        assert f"--{next(iter(request_))}=" in " ".join(without_submitit.sbatch_options(found))


def test_two_numbers_of_gpus_are_refused() -> None:
    with pytest.raises(UserError, match="gpus_per_node: found 1, but gres asks for gpu:2"):
        joined({"site": {"gres": "gpu:2"}, "command line": {"gpus_per_node": "1"}})


def test_an_empty_partition_is_the_clusters_default() -> None:
    assert joined({"site": {"partition": "gpu"}, "command line": {"partition": ""}}).partition is None


def test_a_probe_of_the_disk_leaves_nothing(tmp_path: Path) -> None:
    refuse_full(tmp_path / "a")
    assert not list((tmp_path / "a").iterdir())
