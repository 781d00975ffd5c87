"""Values to and from JSON documents, checked field by field (msgspec)."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from mtpgraft.bench.engine import Json
from mtpgraft.errors import InputError

_T = TypeVar("_T")


def encode(value: object) -> Json:
    """A dataclass, and what it holds, as JSON values. Paths become their text."""
    import msgspec

    encoded: Json = msgspec.to_builtins(value, enc_hook=str)
    return encoded


def decode(kind: type[_T], document: object, file: object = None, where: str = "") -> _T:
    """The value that `document` describes. Fields that `kind` does not have are ignored.

    file, where: what is being read, and the place in it, for the error. Raises InputError with the field.
    """
    import msgspec

    try:
        return msgspec.convert(document, kind, dec_hook=_other)
    except msgspec.ValidationError as error:
        what, _, at = str(error).partition(" - at ")
        place = f"{where}{at.strip('`').removeprefix('$')}" if at else where
        raise InputError(
            what, file=file, where=place or None, hint="mtpgraft bench --save FILE.json writes this format"
        ) from None


def _other(kind: type, value: object) -> object:
    if kind is object:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected `{kind.__name__}`")
