"""The commands by name. A command's module is imported when it is asked for, and what is heavy when it runs."""

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from masksup import __version__
from masksup.errors import nearest
from masksup.exits import status_of

# Name -> module below masksup.commands, with `add_arguments(parser)` and `run(args)`, and its line in the help.
COMMANDS = {
    "prepare": ("prepare", "read annotations, write an index, show what was found"),
    "shards": ("shards", "pack the images of an index into tar shards, or check such shards"),
    "auto": ("auto", "choose settings by cross-validation, train, calibrate"),
    "import": ("import_weights", "turn a checkpoint of an original project into a run folder"),
    "train": ("train", "train one run; the same command again continues a stopped run"),
    "eval": ("eval", "score a run on an index, exactly, with the protocol"),
    "calibrate": ("calibrate", "fit thresholds and calibrated probabilities, and keep them with the run"),
    "pack": ("pack", "pack a model with its thresholds and its card into one file"),
    "predict": ("predict", "label images, folders or globs"),
    "export": ("export", "write a file that runs without this package, and compare it with the run"),
    "smoke": ("smoke", "train, score, export and run a configuration in miniature"),
    "report": ("report", "write one HTML file about a run, or about several side by side"),
    "replay": ("replay", "repeat one step of a run: the loss of each image, gradients, what the network saw"),
    "doctor": ("doctor", "measure whether loader, host or device limits the speed, and name the setting to change"),
    "track": ("track", "send runs to MLflow or Weights & Biases, live or later"),
    "recipes": ("recipes", "list the configurations of this package, with published and measured scores"),
    "models": ("models", "list the backbones with their weights"),
    "settings": ("settings", "list the settings of a configuration: defaults, meanings, examples"),
    "schema": ("schema", "write JSON schemas of run, sweep and site files, for editors that check and complete"),
    "completion": ("completion", "print a script that completes these commands in bash, zsh or tcsh"),
    "demo": ("demo", "open a local page: drop pictures, see labels, thresholds and maps"),
}


_EVERY = "*"


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 2 for a mistake in the input, 75 if stopped on request."""
    args = parse(sys.argv[1:] if argv is None else argv)
    return status_of("masksup", args.run, args)


def parse(words: list[str]) -> argparse.Namespace:
    """Arguments in any order: argparse itself takes no further key=value or image once an option has come.

    A command says with the default `more` which of its arguments takes those.
    """
    command = next((word for word in words if not word.startswith("-")), "")
    parser = _parser(command)
    refuse_unknown(parser, command, COMMANDS)
    args, rest = parser.parse_known_args(words)
    more = getattr(args, "more", None)
    if rest and (more is None or any(word.startswith("-") for word in rest)):
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}{hint(more, rest, args.options)}")
    if more is not None:
        getattr(args, more).extend(rest)
    return args


def option_names(command: argparse.ArgumentParser) -> tuple[str, ...]:
    """Every option of a command, such as `--data`."""
    return tuple(name for action in command._actions for name in action.option_strings if name.startswith("--"))


def hint(more: str | None, rest: list[str], options: Sequence[str]) -> str:
    """What a user may have meant: settings of `train` are no options, and options of the others are no settings.

    options: those that the command has.
    """
    for word in (word for word in rest if word.startswith("-")):
        if close := get_close_matches(word.partition("=")[0], options, n=1, cutoff=0.7):
            return f"; did you mean {close[0]}?"
    if more != "overrides":
        pair = next((word for word in rest if "=" in word and not word.startswith("-")), "")
        key, _, value = pair.partition("=")
        option = f"--{key.rpartition('.')[2]}"
        instead = f", but it has {option} {value}" if option in options else ""
        return f"; this command takes no settings{instead}" if pair else ""
    if any(word.startswith("--resume") for word in rest):
        return "; the same command without it goes on where the run stopped"
    from masksup.config.messages import keys_named, schema_keys

    name, _, value = next(word for word in rest if word.startswith("-")).lstrip("-").partition("=")
    alike = get_close_matches(name, [key.rpartition(".")[2] for key in schema_keys()], n=1, cutoff=0.8)
    keys = keys_named(name) or keys_named(*alike or [""]) or ["section.key"]
    after = rest[rest.index(f"--{name}") + 1 :] if f"--{name}" in rest else []
    return f"; settings are given as {keys[0]}={value or (after[0] if after else 'VALUE')}"


def refuse_unknown(parser: argparse.ArgumentParser, command: str, known: Iterable[str]) -> None:
    """Leave with the nearest command where `command` is none; "" is none and passes."""
    names = list(known)
    if command and command not in names:
        parser.error(f"unknown command '{command}'; {nearest(command, names)}")


class Help(argparse.HelpFormatter):
    """Paragraphs and examples of a description stay apart, and a command stands in one line with its meaning."""

    def add_argument(self, action: argparse.Action) -> None:
        """argparse itself forgets that the names of commands stand further in, and breaks the line after long ones."""
        super().add_argument(action)
        for command in self._iter_indented_subactions(action):
            reaches = self._current_indent + len(self._format_action_invocation(command))
            self._action_max_length = max(self._action_max_length, reaches)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Indented paragraphs are examples, which keep their lines."""
        paragraphs = textwrap.dedent(text).strip("\n").split("\n\n")
        filled = (
            part if part.startswith(" ") else super(Help, self)._fill_text(part, width, indent) for part in paragraphs
        )
        return "\n\n".join(filled)


class Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=Help, **options)

    def error(self, message: str) -> NoReturn:
        """A wrong option is told as every other mistake, in one line."""
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists the options\n")


def _parser(wanted: str) -> argparse.ArgumentParser:
    """All commands by name, of which the one that is wanted (or `_EVERY`) knows its arguments."""
    parser = Parser(prog="masksup", description="Multi-label image recognition: prepare, train, score, predict.")
    parser.add_argument("--version", action="version", version=f"masksup {__version__}")
    parser.set_defaults(
        run=lambda _: parser.print_help(), all_commands=lambda: _parser(_EVERY), options=(), parser=parser
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, (module, meaning) in COMMANDS.items():
        command = commands.add_parser(name, help=meaning, description=meaning)
        if wanted in (name, _EVERY):
            part = import_module(f"masksup.commands.{module}")
            part.add_arguments(command)
            command.set_defaults(run=part.run, options=option_names(command), parser=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
