"""Numbers and kinds of values as people read them."""


def counted(number: int, thing: str, things: str | None = None) -> str:
    """`number` with its noun: "1 image", "1,200 images". things: the plural, where it is not an s at the end."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def kind_of(value: object) -> str:
    """What a value of YAML or JSON is, for people."""
    kinds = {"NoneType": "nothing", "dict": "mapping", "str": "text", "bool": "true or false"}
    return kinds.get(type(value).__name__, "number" if isinstance(value, int | float) else type(value).__name__)


def figure(value: float) -> str:
    """Three digits and no exponent: 0.123, 45.6, 1,170."""
    return f"{float(f'{value:.3g}'):,.15g}"
