"""Runs cases on the fake device, one JSON request a line, each answered by one line. argv: the stub driver's file."""

import json
import os
import sys
import traceback
import warnings
from typing import Any

import device  # first: it comes before torch
from cases import run
from findings import Watch
from probes import probe


def main() -> None:
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)
    os._exit(0)  # an ordinary end would ask the driver to tear its device down


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    watch, failures, trace = Watch(), [], ""
    try:
        if "probe" in request:
            probe(request["probe"], watch)
        else:
            run(watch, **request)
    except Exception as error:
        failures = [f"{type(error).__name__}: {' '.join(str(error).split())}"]
        trace = traceback.format_exc()
    return {
        "found": sorted(watch.found) + failures,
        "operators": dict(watch.operators),
        "events": device.Event.said,
        "trace": trace,
    }


if __name__ == "__main__":
    main()
