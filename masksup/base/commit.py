"""Of which commit the code is that runs: of its checkout, or as the copy of a submitted job has noted it."""

import subprocess
from pathlib import Path

COMMIT = "COMMIT"
"""The file in a copy of the code that names its commit."""
_ROOT = Path(__file__).resolve().parents[2]


def commit_of_code(root: Path = _ROOT) -> str | None:
    """The commit, with `-dirty` where files were changed since; None where neither git nor a note is there."""
    noted = root / COMMIT
    if noted.is_file():
        return noted.read_text(encoding="ascii", errors="replace").strip() or None
    if not (root / ".git").exists():  # an installed package may lie in somebody else's repository
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
