"""A configuration for reading: every value, where it came from, what it means."""

from rich.table import Table

from masksup.base.log import console


def print_config(rows: list[tuple[str, str, str, str]]) -> None:
    """Print rows (key, value, source, meaning)."""
    if not console.is_terminal:
        for key, value, source, meaning in rows:
            print(f"{key}: {value}  # {source}{'; ' + meaning if meaning else ''}")
        return
    table = Table("setting", "value", "from", "meaning")
    for key, value, source, meaning in rows:
        table.add_row(key, value, source, meaning, style="" if source == "default" else "bold")
    console.print(table, soft_wrap=False)
