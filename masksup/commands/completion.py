"""`masksup completion`: a script for the shell, written once, so that completing starts no Python."""

import argparse

_FOLDERS = ("DIR", "RUN", "INDEX")
_YAML = {"bash": "_masksup_yaml", "zsh": "_files -g '(*.yaml|*.yml)'", "tcsh": "f:*.{yaml,yml}"}
_BASH = """_masksup_yaml() {
  compgen -d -S / -- "$1"
  compgen -f -X '!*.yaml' -- "$1"
  compgen -f -X '!*.yml' -- "$1"
  compopt -o nospace 2> /dev/null
}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="of which shell")


def run(args: argparse.Namespace) -> None:
    """Print the script: commands, options, folders, YAML files and, for `train`, `key=` of every setting."""
    import shtab

    from masksup.config.messages import schema_keys

    parser = args.all_commands()
    for command in _commands(parser):
        for argument in command._actions:
            if argument.dest == "overrides":
                argument.choices = [f"{key}=" for key in schema_keys()]
            elif argument.metavar == "CONFIG":
                argument.complete = _YAML  # type: ignore[attr-defined]
            elif argument.metavar in _FOLDERS:
                argument.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif argument.dest in ("model", "file", "images", "out", "json"):
                argument.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell, preamble=_BASH if args.shell == "bash" else ""))


def _commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    return [
        command
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for command in action.choices.values()
    ]
