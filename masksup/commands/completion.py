"""`masksup completion`: a script for the shell, written once, so that completing starts no Python."""

import argparse

_FOLDERS = ("DIR", "INDEX")
_RUN = {"bash": "_masksup_run", "zsh": "_files -/", "tcsh": "d"}
_MODEL = {"bash": "_masksup_model", "zsh": "_files", "tcsh": "f"}
_YAML = {"bash": "_masksup_yaml", "zsh": "_files -g '(*.yaml|*.yml)'", "tcsh": "f:*.{yaml,yml}"}
_BASH = """_masksup_yaml() {
  compgen -d -S / -- "$1"
  compgen -f -X '!*.yaml' -- "$1"
  compgen -f -X '!*.yml' -- "$1"
  compopt -o nospace 2> /dev/null
}
_masksup_run() {  # a run folder as it is; another folder with a slash, to look below it
  compgen -d -- "$1" | while read -r folder; do
    if [ -e "$folder/config.yaml" ]; then printf '%s\\n' "$folder"; else printf '%s/\\n' "$folder"; fi
  done
  compopt -o nospace 2> /dev/null
}
_masksup_model() {
  _masksup_run "$1"
  compgen -f -X '!*.zip' -- "$1"
}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="your shell")


def run(args: argparse.Namespace) -> None:
    """Print the script: commands, options, runs, folders, YAML files, `key=` of every setting, names of recipes."""
    import shtab

    from masksup.config.messages import schema_keys

    parser, known = args.all_commands(), _words()
    for command in _commands(parser):
        for argument in command._actions:
            if words := known.get((command.prog.rpartition(" ")[2], argument.dest)):
                argument.choices = words
            elif argument.dest == "overrides":
                argument.choices = [f"{key}=" for key in schema_keys()]
            elif argument.metavar in ("RUN", "RUN|CONFIG"):
                argument.complete = _RUN  # type: ignore[attr-defined]
            elif argument.metavar == "RUN_OR_CHECKPOINT":
                argument.complete = _MODEL  # type: ignore[attr-defined]
            elif argument.metavar == "CONFIG":
                argument.complete = _YAML  # type: ignore[attr-defined]
            elif argument.metavar in _FOLDERS:
                argument.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif argument.dest in ("file", "images", "out", "json"):
                argument.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell, preamble=_BASH if args.shell == "bash" else ""))


def _words() -> dict[tuple[str, str], list[str]]:
    """What an argument of a command may be, where that is known beforehand."""
    from masksup.config.messages import schema_keys
    from masksup.config.recipes import find_recipes

    keys, recipes = set(schema_keys()), find_recipes()
    sections = {key.rpartition(".")[0] for key in keys} - {""}
    return {
        ("settings", "section"): sorted(keys | sections),
        ("recipes", "data"): sorted({recipe.data for recipe in recipes}),
        ("recipes", "method"): sorted({part for recipe in recipes for part in recipe.parts}),
    }


def _commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    return [
        command
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for command in action.choices.values()
    ]
