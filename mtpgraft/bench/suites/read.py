"""Reads suite files: one JSON object, checked strictly: a misspelt field would silently measure something else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from mtpgraft.bench.prompts import SHAPES, Prompt, Suite
from mtpgraft.bench.suites.filler import Filler
from mtpgraft.errors import InputError, InvalidFileError, UsageError
from mtpgraft.jsontext import parse_json
from mtpgraft.source.local import read_text

SUITE_NAMES = ("mtp-bench", "quick", "long-context")
SCHEMA_VERSION = 1
_HINT = "the format: docs/bench.md, `A suite file`"
# A prompt of a million tokens at four characters each: nothing longer is a prompt.
_MAX_DEPTH = 1 << 20
_MAX_FILE_NBYTES = 64 << 20


@cache
def builtin_suite(name: str) -> Suite:
    """Raises UsageError for a name that is none of SUITE_NAMES."""
    if name not in SUITE_NAMES:
        raise UsageError(
            f"there is no suite {name!r}",
            expected=", ".join(SUITE_NAMES),
            hint="--suite FILE.json for a suite of your own (docs/bench.md)",
        )
    return parse_suite(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"), name)


def read_suite(path: Path) -> Suite:
    """A suite file of the user's own. Raises InputError that names the line or the field."""
    return parse_suite(read_text(path, _MAX_FILE_NBYTES, "a suite"), path)


def parse_suite(text: str, file: object) -> Suite:
    """The suite in this JSON text. file: what it came from, for errors. Raises InputError."""
    try:
        document = parse_json(text.encode(), file)
    except InvalidFileError as error:
        error.hint = _HINT
        raise
    reader = _Reader(file)
    suite = reader.table(document, "", required=("schema_version", "name", "prompts"), optional=_SUITE_OPTIONAL)
    version = suite["schema_version"]
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise reader.wrong(".schema_version", SCHEMA_VERSION, version)
    shape = suite.get("shape", "completion")
    if shape not in SHAPES:
        raise reader.wrong(".shape", " or ".join(SHAPES), shape)
    filler = _filler(reader, suite["filler"]) if "filler" in suite else None
    rows = reader.items(suite["prompts"], ".prompts")
    prompts = tuple(_prompt(reader, row, f".prompts[{number}]", filler) for number, row in enumerate(rows))
    _check_ids(reader, prompts)
    return Suite(
        name=reader.text(suite["name"], ".name"),
        shape=str(shape),
        n_predict=reader.number(suite.get("n_predict", 128), ".n_predict", 8, 1 << 20),
        prompts=prompts,
    )


_SUITE_OPTIONAL = ("shape", "n_predict", "description", "filler")


def _prompt(reader: _Reader, row: object, where: str, filler: Filler | None) -> Prompt:
    fields = reader.table(row, where, required=("id", "text"), optional=("category", "depth"))
    name = reader.text(fields["id"], f"{where}.id")
    text = reader.text(fields["text"], f"{where}.text")
    depth = 0
    if "depth" in fields:
        depth = reader.number(fields["depth"], f"{where}.depth", 1, _MAX_DEPTH)
        if filler is None:
            raise reader.wrong(f"{where}.depth", "a suite with `filler`", "none")
        text = filler.text(depth) + text
    category = reader.text(fields.get("category", name), f"{where}.category")
    return Prompt(name, category, text, depth)


def _filler(reader: _Reader, row: object) -> Filler:
    fields = reader.table(row, ".filler", required=("paragraphs",), optional=("words",))
    paragraphs = reader.texts(fields["paragraphs"], ".filler.paragraphs")
    words: dict[str, tuple[str, ...]] = {}
    given = fields.get("words", {})
    if not isinstance(given, Mapping):
        raise reader.wrong(".filler.words", "an object of lists", type(given).__name__)
    for name, values in given.items():
        words[str(name)] = reader.texts(values, f".filler.words.{name}")
    filler = Filler(paragraphs, words)
    unknown = filler.unknown_words()
    if unknown:
        raise reader.wrong(".filler.paragraphs", "words that .filler.words lists, or {n}", f"{{{unknown[0]}}}")
    return filler


def _check_ids(reader: _Reader, prompts: tuple[Prompt, ...]) -> None:
    seen: set[str] = set()
    for number, prompt in enumerate(prompts):
        if prompt.id in seen:
            raise reader.wrong(f".prompts[{number}].id", "an id of its own", prompt.id)
        seen.add(prompt.id)


class _Reader:
    """Checks values and says where in the file a wrong one is."""

    def __init__(self, file: object) -> None:
        self.file = file

    def wrong(self, where: str, expected: object, found: object) -> InputError:
        return InputError(
            "is not a suite that can be run",
            file=self.file, where=where or "top level", expected=expected, found=found, hint=_HINT,
        )  # fmt: skip

    def table(
        self, value: object, where: str, required: tuple[str, ...], optional: tuple[str, ...]
    ) -> Mapping[str, object]:
        if not isinstance(value, dict):
            raise self.wrong(where, "an object", _kind(value))
        missing = [name for name in required if name not in value]
        if missing:
            raise self.wrong(f"{where}.{missing[0]}", "a value", "none")
        strange = [name for name in value if name not in (*required, *optional)]
        if strange:
            raise self.wrong(f"{where}.{strange[0]}", f"one of {', '.join((*required, *optional))}", strange[0])
        return value

    def items(self, value: object, where: str) -> list[object]:
        if not isinstance(value, list) or not value:
            raise self.wrong(where, "a list with at least one item", _kind(value))
        return value

    def text(self, value: object, where: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(where, "text", _kind(value))
        return value

    def texts(self, value: object, where: str) -> tuple[str, ...]:
        return tuple(self.text(item, f"{where}[{number}]") for number, item in enumerate(self.items(value, where)))

    def number(self, value: object, where: str, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(where, f"a whole number from {least} to {most}", value)
        return value


def _kind(value: object) -> str:
    if value in ("", [], {}):
        return "nothing in it"
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
