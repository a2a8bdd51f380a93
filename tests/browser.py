"""Chromium without a window, for tests of pages."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--enable-logging=stderr",
    "--window-size=1500,1000",
]  # fmt: skip


def executable() -> str:
    """Chromium. Fails in CI where there is none, and skips elsewhere."""
    chromium = next((found for name in NAMES if (found := shutil.which(name))), None)
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium to test with")
    return chromium


def dump_dom(address: str, profile: Path, milliseconds: int = 10_000) -> tuple[str, str]:
    """The page's elements once its scripts have run for so long, and what Chromium said, its console included."""
    words = [f"--user-data-dir={profile}", f"--virtual-time-budget={milliseconds}", "--dump-dom", address]
    done = subprocess.run([executable(), *OPTIONS, *words], capture_output=True, text=True, timeout=200)
    return done.stdout, done.stderr
