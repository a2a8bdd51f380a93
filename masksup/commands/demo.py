"""`masksup demo`: open the model, then serve the page on this machine's own address."""

import argparse
import importlib.util
import socket

from masksup.commands.options import add_path
from masksup.errors import UserError
from masksup.saved.running import add_running, running_of

HOST = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_path(parser)
    parser.add_argument(
        "--port", type=int, default=8080, metavar="N", help="port on 127.0.0.1, such as 9000 (default: 8080)"
    )
    add_running(parser)


def run(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C. UserError where the page's library is missing or the port is taken."""
    running = running_of(args)
    if importlib.util.find_spec("nicegui") is None:
        raise UserError("masksup demo needs NiceGUI, which is not installed: pip install 'masksup[demo]'")
    refuse_taken(args.port)
    from masksup.base.log import log, start_logging
    from masksup.demo.labelling import Labeller
    from masksup.demo.page import serve
    from masksup.engine.precision import set_numerics
    from masksup.saved.decisions_of import decisions_for
    from masksup.saved.open import open_trained

    start_logging()
    trained = open_trained(args.model).run_as(running)
    set_numerics(trained.config.precision)
    labeller = Labeller(trained, decisions_for(trained))
    log.info(f"{trained.checkpoint}: http://{HOST}:{args.port}/   (from this machine only; Ctrl-C ends it)")
    serve(labeller, HOST, args.port)


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
