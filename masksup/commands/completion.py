"""`masksup completion`: a script for the shell, written once, so that completing starts no Python."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="of which shell")


def run(args: argparse.Namespace) -> None:
    """Print the script: commands, options, files, folders and, for `train`, `key=` of every setting."""
    import shtab

    from masksup.config.messages import schema_keys

    parser = args.all_commands()
    for command in _commands(parser):
        for argument in command._actions:
            if argument.dest == "overrides":
                argument.choices = [f"{key}=" for key in schema_keys()]
            elif argument.metavar == "DIR" or argument.dest in ("model", "runs", "data"):
                argument.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif argument.dest in ("config", "images", "out", "json"):
                argument.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell))


def _commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    return [
        command
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for command in action.choices.values()
    ]
