"""Installed packages with known vulnerabilities, as pip-audit finds them; `make nightly`."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

_UNREACHED = re.compile(
    r"connection|resolve|timed? ?out|max retries|proxy|temporary failure|unavailable|http ?error", re.I
)


@pytest.mark.slow
def test_no_installed_package_has_a_vulnerability_that_a_newer_one_has_not() -> None:
    if importlib.util.find_spec("pip_audit") is None:
        pytest.skip("pip-audit is not installed (the extra: test)")
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--format", "json", "--timeout", "30"],
        capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    if not done.stdout.lstrip().startswith("{"):
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        assert _UNREACHED.search(done.stderr), done.stderr
        pytest.skip(f"pip-audit: its database cannot be reached ({last[:200]})")
    packages = json.loads(done.stdout)["dependencies"]
    looked_up = [package for package in packages if "vulns" in package]
    if not looked_up:
        pytest.skip(f"pip-audit: its database cannot be reached (it knows none of {len(packages)} packages)")
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions'])}"
        for package in looked_up
        for flaw in package["vulns"]
        if flaw["fix_versions"]
    ]
    assert not found, "\n".join(found)
