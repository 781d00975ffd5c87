"""Heads to compare on one model: sidecar files that the user has, and sidecars made for the run.

A made one is what `graft` would put into the model, as a file beside it (`plan.beside`), so that no head needs a copy
of the model. It lives in a temporary folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mtpgraft.acquire import local_donor
from mtpgraft.bench.protocol import OWN_HEAD, HeadChoice
from mtpgraft.container import GGUFModel
from mtpgraft.errors import InputError, RefusedError, UsageError
from mtpgraft.head import Head, find_head
from mtpgraft.open import open_model
from mtpgraft.plan.beside import plan_beside
from mtpgraft.plan.keys import HEAD_SHA256
from mtpgraft.plan.types import KEEP
from mtpgraft.quantize import parse_type
from mtpgraft.surgery import NotVerifiedError, opened_result
from mtpgraft.verify import stored_head_digest
from mtpgraft.write import check_targets, write_plan


@dataclass(frozen=True, slots=True)
class Heads:
    """What `made_heads` gives. notes: what the reader of the figures should know about them."""

    choices: tuple[HeadChoice, ...]
    notes: tuple[str, ...] = ()


def check_types(types: Sequence[str]) -> tuple[str, ...]:
    """The types in lower case. Raises UsageError for one that cannot be written, and for one given twice."""
    names = tuple(name.strip().lower() for name in types)
    for name in names:
        if name != KEEP:
            parse_type(name)
    if len(set(names)) != len(names):
        raise UsageError("the same head type twice", found=", ".join(names))
    return names


@contextmanager
def made_heads(
    model: Path, drafts: Sequence[Path] = (), types: Sequence[str] = (), donor: str | None = None
) -> Iterator[Heads]:
    """The heads to measure on `model`: each of `drafts`, and a sidecar per type made of `donor`'s head or its own.

    With a donor and no types: the donor's head as it is. With nothing: the model's own head. Made files are there until
    the context ends. Raises UsageError, InputError, and RefusedError (no head, another model's head, a type that
    would change nothing).
    """
    types = check_types(types) or ((KEEP,) if donor else ())
    for draft in drafts:
        if not draft.is_file():
            raise InputError("no such file", file=draft, hint="check the path")
    if not types:
        yield Heads(_labelled([(draft.stem, draft) for draft in drafts]) if drafts else (OWN_HEAD,))
        return
    with TemporaryDirectory(prefix="mtpgraft-heads-") as name:
        made, notes = _make(model, types, donor, Path(name))
        yield Heads(_labelled([*((draft.stem, draft) for draft in drafts), *made]), notes)


def _make(
    model: Path, types: Sequence[str], donor: str | None, folder: Path
) -> tuple[list[tuple[str, Path]], tuple[str, ...]]:
    made: list[tuple[str, Path]] = []
    notes: list[str] = []
    with open_model(model) as base:
        base_head = find_head(base)
        if donor is None:
            for name in types:
                made.append((name, _one(base, base_head, base, base_head, name, folder, notes)))
            return made, tuple(notes)
        with local_donor(donor, folder) as file, open_model(file) as opened:
            donor_head = find_head(opened)
            for name in types:
                made.append((name, _one(base, base_head, opened, donor_head, name, folder, notes)))
    return made, tuple(notes)


def _one(
    base: GGUFModel, base_head: Head, donor: GGUFModel, donor_head: Head, name: str, folder: Path, notes: list[str]
) -> Path:
    """Writes and verifies one sidecar."""
    out = folder / f"mtp-{name}.gguf"
    plan = plan_beside(base, base_head, donor, donor_head, out, name)
    wanted = None if name == KEEP else parse_type(name)
    matrices = [(row.from_type, row.to_type) for row in plan.head if row.from_type != "F32" or row.to_type != "F32"]
    if wanted is not None and wanted.name not in {to_type for _, to_type in matrices}:
        stored = ", ".join(sorted({from_type for from_type, _ in matrices})) or "F32"
        raise RefusedError(
            f"the head cannot be made {wanted.name}: what its stored type lost does not come back",
            file=donor.name, expected="a head of a higher type", found=stored,
            hint="--donor with the original head (BF16), or leave this type out",
        )  # fmt: skip
    raised = sorted({a for a, b in matrices if wanted is not None and b == wanted.name and _bits(a) < _bits(b)})
    if raised and wanted is not None:
        notes.append(
            f"head {name}: made of a head stored as {', '.join(raised)}, whose lost precision does not come back: "
            f"it drafts what the stored head drafts"
        )
    notes += [f"head {name}: {warning}" for warning in plan.warnings if "stays" in warning]
    check_targets(plan, overwrite=False)
    written = write_plan(plan)
    try:
        with opened_result(written) as result:
            head = find_head(result)
            if not head.blocks or result.text(HEAD_SHA256) != stored_head_digest(result, head):
                raise NotVerifiedError("a sidecar made for this run did not verify", file=out, hint="run it again")
        written.publish()
    finally:
        written.discard()
    return out


def _labelled(heads: Sequence[tuple[str, Path]]) -> tuple[HeadChoice, ...]:
    """Heads with labels of their own; without one where there is nothing to tell apart."""
    if len(heads) == 1:
        return (HeadChoice("", heads[0][1]),)
    labels: list[str] = []
    for label, _ in heads:
        number = 2
        unique = label
        while unique in labels:
            unique = f"{label} ({number})"
            number += 1
        labels.append(unique)
    return tuple(HeadChoice(label, path) for label, (_, path) in zip(labels, heads, strict=True))


def _bits(type_name: str) -> float:
    """Bits per value; 0 for types of unknown size."""
    from mtpgraft.container.types import TENSOR_TYPES_BY_NAME

    known = TENSOR_TYPES_BY_NAME.get(type_name)
    return 8 * known.block_nbytes / known.block if known and known.block else 0.0
