"""Print the installed versions of everything the package needs, as pip constraints (`make constraints`)."""

import argparse
import re
from importlib import metadata


def main() -> None:
    """Walk the requirements of the package, extras included, and print each as `name==version`."""
    found: dict[str, str] = {}
    _visit("masksup", {"lite0", "export", "demo", "guided", "mlflow", "wandb", "docs", "test", "lint"}, found)
    del found["masksup"]
    for name in sorted(found):
        if name.startswith(("nvidia-", "cuda-", "triton")):
            continue  # torch itself names the exact version of each, and other platforms have none
        # A CUDA build says so behind a plus sign, which a package index does not know.
        print(f"{name}=={found[name].split('+')[0]}")


def _visit(name: str, extras: set[str], found: dict[str, str]) -> None:
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found:
        return
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return  # needed on other platforms only
    found[name] = distribution.version
    for line in distribution.requires or []:
        requirement, _, marker = line.partition(";")
        wanted = re.search(r"""extra == ['"]([^'"]+)""", marker)
        if wanted is None or wanted[1] in extras:
            match = re.match(r"[A-Za-z0-9._-]+", requirement)
            assert match is not None, line
            _visit(match[0], set(), found)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
