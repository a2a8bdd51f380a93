"""`masksup demo`: open the model, then serve the page on this machine's own address."""

import importlib.util
import socket
from pathlib import Path

from masksup.errors import UserError
from masksup.saved.running import AS_TRAINED, Running

HOST = "127.0.0.1"


def run_demo(path: Path, port: int, running: Running = AS_TRAINED) -> int:
    """Serve until Ctrl-C. UserError where the page's library is missing or the port is taken."""
    if importlib.util.find_spec("nicegui") is None:
        raise UserError("masksup demo needs NiceGUI, which is not installed: pip install 'masksup[demo]'")
    refuse_taken(port)
    from masksup.base.log import log, start_logging
    from masksup.demo.labelling import Labeller
    from masksup.demo.page import serve
    from masksup.engine.precision import set_numerics
    from masksup.saved.decisions_of import decisions_for
    from masksup.saved.open import open_trained

    start_logging()
    trained = open_trained(path).run_as(running)
    set_numerics(trained.config.precision)
    labeller = Labeller(trained, decisions_for(trained))
    log.info(f"{trained.checkpoint}: http://{HOST}:{port}/   (from this machine only; Ctrl-C ends it)")
    serve(labeller, HOST, port)
    return 0


def refuse_taken(port: int) -> None:
    """UserError unless the port can be listened on."""
    if not 1 <= port <= 65535:
        raise UserError(f"--port: found {port}, expected 1 to 65535")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"--port: {port}: {error.strerror}; expected one that is free") from None
