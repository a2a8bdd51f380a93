"""Labels in one cell: a list as Python, JSON or Label Studio writes it, or names that '|' or --separator joins.

Another separator is never guessed, and never overlooked, whatever sign it is: where most cells hold one, or what it
parts stands in other cells by itself, the table is refused until --separator says what is meant. With --classes there
is nothing to guess.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from masksup.data.prepare.tables.cells import Table
from masksup.data.prepare.tables.words import seems_nothing
from masksup.errors import UserError

USUAL = "|"
_WORDS = {"comma": ",", "semicolon": ";", "space": " ", "blank": " ", "tab": "\t", "pipe": "|", "\\t": "\t"}
_LIST = re.compile(r"\[.*\]|\(\s*['\"].*\)|\{\s*['\"].*\}", re.DOTALL)
_ITEM = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^,:'"\s\[\](){}][^,\]]*)""", re.DOTALL)
_BITS = re.compile(r"[01]+")
_DICTIONARY = re.compile(r"\[?\s*\{.*:.*\}\s*\]?", re.DOTALL)
_OTHERS = (",", ";", " ")
_WITHIN = frozenset("-_.'’()")  # signs of single names: they join only what are labels themselves, all of it
# What is left of a list that was cut, or that numpy or a set wrote in another way.
_CUT_LIST = re.compile(r"""^[\[({]\s*['"]|[\[{]\s*['"]|['"]\s*[\]}]|^set\(\)$""")


@dataclass(frozen=True)
class Cell:
    """The labels cell of one row."""

    line: int
    text: str


def separator_of(given: str | None) -> str | None:
    """What --separator means, as a text or a word. UserError for nothing."""
    if given is None:
        return None
    if given == "":
        raise UserError("--separator: found nothing, expected what joins labels, such as ',' or ';' or space")
    return _WORDS.get(given.casefold(), given)


def split_labels(
    table: Table, cells: list[Cell], separator: str | None, known: Collection[str] | None
) -> list[list[str]]:
    """The labels of each cell. `known`: the classes, where they are given. UserError where it is unclear."""
    choices = [_choices(cell.text) for cell in cells]
    if any(choices):  # Label Studio, which writes a single choice as it is
        return [list(names or filter(None, [cell.text])) for names, cell in zip(choices, cells)]
    filled = [cell for cell in cells if cell.text]
    if pairs := next((cell for cell in filled if _DICTIONARY.fullmatch(cell.text)), None):
        raise UserError(
            f"{table.where(pairs.line)}: found the labels {pairs.text[:60]!r}, which are pairs of names and values, "
            "expected names joined by '|' or a list such as ['cat', 'dog']"
        )
    lists = [cell for cell in filled if _LIST.fullmatch(cell.text) and _is_list(cell.text)]
    # A name in brackets is a name until another cell shows quotes, commas or nothing between them.
    lists = lists if any(cell.text == "[]" or set(cell.text) & set("'\",") for cell in lists) else []
    if lists and separator is None:
        other = next((cell for cell in filled if not _LIST.fullmatch(cell.text)), None)
        if other is not None:
            raise UserError(
                f"{table.where(other.line)}: found the labels {other.text[:60]!r}, but a list such as "
                f"{lists[0].text[:60]} in line {lists[0].line}; expected one way for all rows"
            )
        return [_items(cell.text) if cell.text else [] for cell in cells]
    chosen = separator or _clear(filled, known) or USUAL
    if separator is None and chosen == USUAL:
        _refuse_unclear(table, filled, known)
    return [_parts(cell.text, chosen) for cell in cells]


def refuse_vectors(table: Table, cells: list[Cell], listed: list[list[str]]) -> None:
    """UserError where cells hold a 1 or 0 for each class, as in [1, 0, 1] and 101, and not the names of classes."""
    names = {name for labels in listed for name in labels}
    bits = all(_BITS.fullmatch(name) for name in names)
    of_digits = bits and len({len(name) for name in names}) == 1 and len(next(iter(names))) > 1
    for cell, labels in zip(cells, listed):
        if bits and (of_digits or len(labels) > 1):
            raise UserError(
                f"{table.where(cell.line)}: found the labels {cell.text[:60]!r} and nothing but 0 and 1 in all rows, "
                f"expected names of classes; give each class a column, or --classes {','.join(sorted(names)[:8])} if "
                "these are names"
            )


def _choices(text: str) -> list[str] | None:
    """The names in {"choices": ["cat", "dog"]}; None where a cell is nothing like it."""
    if not text.startswith('{"choices"'):
        return None
    try:
        names = json.loads(text)["choices"]
    except ValueError:
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _parts(text: str, separator: str) -> list[str]:
    parts = text.split() if separator == " " else text.split(separator)
    return [part.strip() for part in parts if part.strip()]


def _is_list(text: str) -> bool:
    return not _ITEM.sub("", text[1:-1]).strip(" ,\n\t")


def _items(text: str) -> list[str]:
    """Quoted or bare items; two quoted ones without a comma, as numpy prints them, are two."""
    found = [next((group for group in match if group), "") for match in _ITEM.findall(text[1:-1])]
    return [re.sub(r"\\(.)", r"\1", item).strip() for item in found if item.strip()]


def _clear(cells: list[Cell], known: Collection[str] | None) -> str | None:
    """The only separator under which every cell holds known classes alone, if '|' does not do that."""
    if not known or not cells:
        return None
    fits = [
        separator
        for separator in (USUAL, *_OTHERS)
        if all(part in known for cell in cells for part in _parts(cell.text, separator))
    ]
    return fits[0] if fits else None


def _refuse_unclear(table: Table, cells: list[Cell], known: Collection[str] | None) -> None:
    """UserError where '|' does not seem to be what joins labels."""
    sure = set(known or ())
    first: dict[str, Cell] = {}
    counts: Counter[str] = Counter()
    for cell in cells:
        for name in _parts(cell.text, USUAL):
            if name not in sure and not seems_nothing(name):
                counts[name] += 1
                first.setdefault(name, cell)
    skipped = " " if any(USUAL in cell.text for cell in cells) else ""
    if found := joining(counts, sure, skipped):
        sign, name = found
        shown = "space" if sign == " " else f"'{sign}'"
        holding = sum(count for other, count in counts.items() if len(_parts(other, sign)) > 1)
        raise UserError(
            f"{table.where(first[name].line)}: found the labels {first[name].text[:60]!r}, which {shown} seems to join "
            f"(it is in {holding} of {counts.total()} names); --separator {shown} parts them there, --separator "
            f"'{USUAL}' keeps them whole"
        )


def joining(counts: Mapping[str, int], sure: Collection[str] = (), skipped: str = "") -> tuple[str, str] | None:
    """A sign that seems to join labels, with a name that shows it; None where all names seem to be single.

    counts: how often each name occurs. sure: further names that are single. skipped: signs that are none.
    """
    alone = counts.keys() | set(sure)
    others = sorted({sign for name in counts for sign in name if not (sign.isalnum() or sign.isspace())} - {*_OTHERS})
    for sign in (sign for sign in (*_OTHERS, *others) if sign not in skipped):
        parted = {name: parts for name in counts if sign in name and len(parts := _parts(name, sign)) > 1}
        if sign == " ":
            parted = {name: parts for name in counts if len(parts := name.split()) > 1}
            # In "cat / dog" the sign joins, not the blanks around it.
            parted = {name: parts for name, parts in parted.items() if all(any(map(str.isalnum, p)) for p in parts)}
        if sign in _WITHIN:
            proven = [name for name, parts in parted.items() if all(part in alone for part in parts)]
        else:
            # Where a part is a label by itself, a cell is likely a list, however few such cells there are.
            proven = [name for name, parts in parted.items() if any(part in alone for part in parts)]
        if not proven and sign in _OTHERS and 2 * sum(counts[name] for name in parted) > sum(counts.values()):
            proven = list(parted)
        if not proven and sign not in _OTHERS and sign not in _WITHIN:
            # Of parts and kinds (color/red) each has its place; in a list, what is first here is last there.
            leading = {parts[0] for parts in parted.values()}
            proven = [name for name, parts in parted.items() if leading & {*parts[1:]}]
        if proven:
            return sign, proven[0]
    return None


def refuse_cut_lists(table: Table, cells: list[Cell], listed: list[list[str]]) -> None:
    """UserError for a label that is a piece of a list, or that stands in brackets or quotes here and bare elsewhere."""
    first = {name: cell for cell, names in zip(reversed(cells), reversed(listed)) for name in names}
    for name, cell in reversed(first.items()):
        bare = name.strip("[](){}<>'\" ")
        if _CUT_LIST.search(name) or (bare != name and bare in first):
            raise UserError(
                f"{table.where(cell.line)}: found the label {name[:60]!r}, which seems to be a piece of a list, "
                "expected names joined by '|', or lists such as ['cat', 'dog'], which take no --separator"
            )
