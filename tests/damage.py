"""Damaging files, and reading them in a process of its own that may neither hang nor take memory."""

import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from masksup.exits import USER_ERROR, status_of

# What one reading may take: seconds of computing, seconds by the clock, which a busy machine stretches, and bytes more
# than the process has already.
SECONDS, WAITING, MEMORY = 30, 300, 1 << 30
TOKENS = (
    b"\0", b"NaN", b"1e999", b"-1", b"9" * 5000, b"[" * 20_000, b"{", b'"', b"\n", b"\xff\xfe", b"a: &a [*a]", b"../",
)  # fmt: skip
SPECIAL = ("fifo", "device", "folder")


@dataclass(frozen=True)
class Reader:
    """A format: `make` writes a valid one into a folder, `read` gives what it means, as text or numbers.

    own: written by this program, which knows its hash, so that no damage may pass. Else it is somebody's text, of which
    a change may be another valid text; then nothing but a crash, a hang or memory counts.
    files: those that are damaged, as a pattern. absent: what `read` may give where the file is gone.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    files: str = "**/*"
    own: bool = True
    absent: tuple[Any, ...] = ()
    kinds: tuple[str, ...] = (
        "bit", "bit", "bit", "head", "cut", "gone", "longer", "zeros", "token", "token", "swap", "empty", *SPECIAL,
    )  # fmt: skip


def damage(file: Path, kind: str, draw: random.Random) -> None:
    """Change one file in one way."""
    content = bytearray(file.read_bytes())
    size = len(content)
    at = draw.randrange(size) if size else 0
    file.unlink()
    if kind in SPECIAL:
        if kind == "fifo":
            os.mkfifo(file)
        elif kind == "device":
            file.symlink_to("/dev/zero")
        else:
            file.mkdir()
        return
    if kind == "gone":
        return
    if kind in ("bit", "head") and size:
        content[at if kind == "bit" else draw.randrange(min(size, 200))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del content[at:]
    elif kind == "longer":
        content += draw.randbytes(draw.randrange(1, 2000))
    elif kind == "zeros":
        end = min(at + draw.randrange(1, 600), size)
        content[at:end] = bytes(end - at)
    elif kind == "token":
        content[at:at] = draw.choice(TOKENS)
    elif kind == "swap":
        other = draw.randrange(size) if size else 0
        a, b = sorted((at, other))
        content = content[b:] + content[a:b] + content[:a]
    elif kind == "empty":
        content.clear()
    file.write_bytes(content)


def faults(reader: Reader, folder: Path, seeds: range) -> list[str]:
    """What is wrong with how damaged files were read: a line each, which names the seed."""
    reader.make(folder / "whole")
    outgoing, incoming = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(outgoing)
        _read_all(reader, folder, seeds, os.fdopen(incoming, "w", buffering=1))
        os._exit(0)
    os.close(incoming)
    with os.fdopen(outgoing) as lines:
        said = [json.loads(line) for line in lines]
    status = os.waitpid(child, 0)[1]
    found = [row["fault"] for row in said if "fault" in row]
    if os.WIFSIGNALED(status):
        by = os.WTERMSIG(status)
        end = "hung" if by in (signal.SIGALRM, signal.SIGPROF) else f"ended by signal {by}"
        found.append(f"{said[-1].get('what') if said else 'the whole file'}: the reader {end}")
    assert found or len([row for row in said if "what" in row]) == len(seeds)
    return found


def _read_all(reader: Reader, folder: Path, seeds: range, say: Any) -> None:
    try:
        faulthandler.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest's own handler waits for Python code
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        expected = reader.read(folder / "whole")
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY,) * 2)
        for seed in seeds:
            for line in _fault(reader, folder, seed, expected):
                say.write(json.dumps(line) + "\n")
    except BaseException:
        say.write(json.dumps({"fault": "the whole file: " + traceback.format_exc()}) + "\n")
        os._exit(1)


def _fault(reader: Reader, folder: Path, seed: int, expected: Any) -> Iterator[dict[str, str]]:
    draw, work = random.Random(seed), folder / "damaged"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder / "whole", work)
    file = draw.choice(sorted(path for path in work.glob(reader.files) if path.is_file()))
    kind = draw.choice(reader.kinds)
    damage(file, kind, draw)
    what = f"seed {seed}: {kind} in {file.relative_to(work)}"
    yield {"what": what}
    results: list[Any] = []

    def read() -> int:
        results.append(reader.read(work))
        return 0

    signal.alarm(WAITING)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with redirect_stderr(StringIO()) as told:
            status = status_of("masksup", read)
    except BaseException:
        yield {"fault": f"{what}: {traceback.format_exc(limit=-6)}"}
        return
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    line = told.getvalue()
    if status:
        if status != USER_ERROR or line.count("\n") != 1 or len(line) > 2000:
            yield {"fault": f"{what}: status {status}, and not one line that can be read: {line[:3000]}"}
        elif str(work) not in line and file.name not in line:
            yield {"fault": f"{what}: names no file: {line}"}
    elif reader.own and results != [expected] and not (kind == "gone" and results[0] in reader.absent):
        yield {"fault": f"{what}: another result, in silence"}
