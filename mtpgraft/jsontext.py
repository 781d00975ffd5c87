"""JSON from files that may be hostile: bounded memory, and one clear error for whatever is wrong with it."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping

from mtpgraft.errors import InvalidFileError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A decoded JSON value."""

MAX_DECODED_NBYTES = 120 * 2**20
"""A safetensors header of 100,000 tensors (12 MB) is decoded into about 70 MB; a file of nothing but `[],` or `{},`
becomes forty times its size."""
_NBYTES_OF: Mapping[str, int] = {"[": 88, "{": 240, ",": 32, ":": 128}
"""Bytes that CPython takes for each list, object, item and name, as measured on 3.11 (64 bits)."""
_MAX_DIGITS = 300
"""Every whole number of so many digits is finite as a float."""
_ANY_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(
    raw: bytes, file: object, what: str = "it", *, strict: bool = True, max_decoded_nbytes: int = MAX_DECODED_NBYTES
) -> Json:
    """JSON text in UTF-8 as a value.

    max_decoded_nbytes: memory that text and values may take, as estimated from the text's signs.
    strict: no duplicate names and no NaN or infinity. Raises InvalidFileError, with the place where there is one.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFileError(f"{what} is not UTF-8 text", file=file, where=f"offset {error.start}") from None
    decoded_nbytes = 2 * sys.getsizeof(text) + sum(n * text.count(sign) for sign, n in _NBYTES_OF.items())
    if decoded_nbytes > max_decoded_nbytes:
        raise InvalidFileError(
            f"{what} has too many values",
            file=file,
            expected=f"at most {max_decoded_nbytes} bytes when decoded",
            found=f"about {decoded_nbytes}",
        )
    try:
        value: Json = json.loads(text, **(_STRICT if strict else {}))  # type: ignore[arg-type]
        if _ANY_SURROGATE.search(text):
            _refuse_lone_surrogates(value)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InvalidFileError(f"{what} is not valid JSON: {error.msg}", file=file, where=place) from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidFileError(f"{what} is not valid JSON: {reason}", file=file) from None
    return value


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:80]!r} is there twice")
    return found


def _no_constant(text: str) -> Json:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _small_enough(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"{text[:40]}... is too large a number")
    return int(text)


_STRICT = {
    "parse_int": _small_enough,
    "parse_float": _finite,
    "parse_constant": _no_constant,
    "object_pairs_hook": _unique,
}


def _refuse_lone_surrogates(value: Json) -> None:
    """Half a character (`"\\ud800"`) is legal JSON and no text: it can be neither written nor printed."""
    left: list[Json] = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            if not one.isascii():
                one.encode("utf-8")  # UnicodeEncodeError is a ValueError
        elif isinstance(one, list):
            left += one
        elif isinstance(one, dict):
            left += one
            left += one.values()
