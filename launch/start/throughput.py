"""What `masksup-launch preflight --throughput` runs on each rank; rank 0 writes what was found.

python -P -m launch.start.throughput FOLDER CONFIG SECONDS     FOLDER has the resolved config.yaml; CONFIG names it
"""

import sys
from dataclasses import asdict
from pathlib import Path

from launch.ledger import write_json
from masksup.base.place import find_place
from masksup.base.signals import end_with_parent
from masksup.config.load import load_config
from masksup.exits import status_of

CONFIG, RATES = "config.yaml", "rates.json"


def main(folder: Path, name: Path, seconds: float) -> None:
    """Measure with the other ranks. A mistake is one line, of one rank."""
    from masksup.doctor.throughput import measured
    from masksup.runtime.join import joined

    place = find_place()
    if place.launcher == "torchrun":  # so that nothing is left on this machine when the command is killed
        end_with_parent()
    config = load_config(folder / CONFIG)[0]
    with joined(place, config) as group:
        rates = measured(config, name, seconds, group)
        if group.first:
            write_json(folder / RATES, asdict(rates))


if __name__ == "__main__":
    sys.exit(status_of("masksup-launch", main, Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))
