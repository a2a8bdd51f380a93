"""Each program ends alike: a mistake is one line under its own name and 2, a bug keeps its traceback."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

import launch.__main__
import masksup.cli
import masksup.inference.command
from masksup.errors import JobError, ToldElsewhere, UserError

PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "masksup": masksup.cli.main, "masksup-run": masksup.inference.command.main, "masksup-launch": launch.__main__.main,
}  # fmt: skip
ENDS = [
    (UserError("a: found\n b"), 2, "a: found b"), (ToldElsewhere("told"), 2, None), (JobError("rank 1"), 1, "rank 1"),
    (JobError(""), 1, None), (KeyboardInterrupt(), 130, None),
    (PermissionError(errno.EACCES, "Permission denied", "x.csv"), 2, "x.csv: Permission denied"),
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_end(
    program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(error: BaseException) -> int:
        def fail(*_: object) -> int:
            raise error

        monkeypatch.setattr("masksup.commands.pack.run", fail)
        monkeypatch.setattr("masksup.inference.command.run", fail)
        meaning, add_arguments, _ = launch.__main__._COMMANDS["status"]
        monkeypatch.setitem(launch.__main__._COMMANDS, "status", (meaning, add_arguments, fail))
        words = {"masksup": ["pack", "run", "--out", "x.zip"], "masksup-run": ["x.onnx", "y.jpg"]}
        return PROGRAMS[program](words.get(program, ["status"]))

    for error, status, line in ENDS:
        assert run(error) == status
        assert capsys.readouterr().err == ("" if line is None else f"{program}: {line}\n")
    for bug in (RuntimeError("a bug"), OSError("without the name of a file"), OSError(errno.EIO, "Input/output", "x")):
        with pytest.raises(type(bug)):
            run(bug)
