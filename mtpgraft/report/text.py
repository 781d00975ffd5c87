"""Small things that every report writes alike: sizes, and names that came out of a file."""

from __future__ import annotations

import unicodedata


def clean(text: object) -> str:
    """Text from a file without what a terminal would obey: control characters become `\\x1b` and the like."""
    return "".join(
        char if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co") else char.encode("unicode_escape").decode()
        for char in str(text)
    )


def nbytes(n: int) -> str:
    """`1.12 MB`: decimal units, as file managers and the Hub show them."""
    if n < 1000:
        return f"{n} B"
    value = float(n)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 1000 or unit == "TB":
            break
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def shape(dims: tuple[int, ...]) -> str:
    """`512 x 256`, GGUF order."""
    return " x ".join(map(str, dims)) or "scalar"


def counts(by_name: dict[str, int]) -> str:
    """`8 Q8_0, 7 F32`."""
    return ", ".join(f"{n} {clean(name)}" for name, n in by_name.items())
