"""The tour of `make quickstart`: prepare, train, interrupt, resume, score, predict, with the commands a user types."""

import argparse
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CONFIG = Path("configs/examples/quickstart.yaml")
RUN = Path("runs/quickstart")
SOURCE = Path("data/raw/shapes")
SHAPES = Path("data/shapes")
INTERRUPTED = 75


def main() -> int:
    """Run the tour in the folder of the checkout. Returns 0, or the status of the command that failed."""
    began = time.monotonic()
    if RUN.exists():
        say(f"{RUN} is left from an earlier tour: starting over")
        shutil.rmtree(RUN)

    say("1. Draw a synthetic data set in VOC layout, and turn its annotations into indexes")
    run("prepare", "shapes", "--root", str(SOURCE), "--out", str(SHAPES))

    say("2. Train from scratch; half-way the process is told to stop, as a cluster does when it needs the machine")
    interrupt_half_way("train", str(CONFIG))

    say("3. The same command again goes on where it stopped, with the same result as if nothing had happened")
    run("train", str(CONFIG))

    say("4. Score the best epoch once more, with half of each test image hidden")
    run("eval", str(RUN), "--masked", "high", "--json", f"{RUN}/hidden.json")

    say("5. Label a few pictures")
    pictures = sorted((SOURCE / "VOCdevkit/VOC2007/JPEGImages").glob("*.jpg"))[-6:]
    run("predict", str(RUN), *map(str, pictures), "--out", f"{RUN}/predictions.csv", "--pictures", f"{RUN}/pictures")

    say(f"Done in {time.monotonic() - began:.0f} s")
    print(f"  pictures with their labels   {RUN}/pictures/")
    print(f"  scores with their protocol   {RUN}/result.json, {RUN}/hidden.json")
    print(f"  a page about the run         .venv/bin/masksup report {RUN}")
    print("  curves                       .venv/bin/tensorboard --logdir runs   (then open the address it prints)")
    print("  your own images              README.md, 'Your own images'")
    return 0


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def command(*arguments: str) -> list[str]:
    print(f"$ masksup {shlex.join(arguments)}", flush=True)
    return [sys.executable, "-m", "masksup", *arguments]


def run(*arguments: str) -> None:
    """Run one masksup command, and end the tour with its status if it fails."""
    status = subprocess.run(command(*arguments)).returncode
    if status:
        sys.exit(status)


def interrupt_half_way(*arguments: str) -> None:
    """Run a training and send SIGTERM once half of its steps are done."""
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        words = line.split()
        if words[:1] == ["step"] and "/" in words[1]:
            done, total = map(int, words[1].split("/"))
            if 2 * done >= total and process.poll() is None:
                process.send_signal(signal.SIGTERM)
    status = process.wait()
    if status != INTERRUPTED:
        sys.exit(status or "the training ended before it could be interrupted")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.exit(main())
