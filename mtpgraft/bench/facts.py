"""What is recorded of the files that take part: sizes and hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mtpgraft.bench.protocol import BenchPlan
from mtpgraft.bench.result import FileFacts, HeadFacts
from mtpgraft.errors import InputError, MtpgraftError
from mtpgraft.head import find_head
from mtpgraft.open import open_model
from mtpgraft.verify import stored_head_digest

# A second or two of hashing. Larger files are named by size: reading 20 GB would double a bench's disk work.
_HASH_LIMIT_NBYTES = 1 << 30


def file_facts(path: Path) -> FileFacts:
    """Raises InputError when the file is not there."""
    if not path.is_file():
        raise InputError("no such file", file=path, hint="check the path")
    n_bytes = path.stat().st_size
    if n_bytes > _HASH_LIMIT_NBYTES:
        return FileFacts(path.name, n_bytes, None)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return FileFacts(path.name, n_bytes, digest.hexdigest())


def model_facts(plan: BenchPlan) -> FileFacts:
    """Of the plan's model. For a running server the model may be a mere name. Raises InputError."""
    model = plan.arms[0].launch.model
    if all(arm.as_it_runs for arm in plan.arms) and not model.is_file():
        return FileFacts(model.name, 0, None)
    return file_facts(model)


def head_facts(plan: BenchPlan) -> tuple[HeadFacts, ...]:
    """Of every head that the plan's arms use, in their order. Raises InputError for a file that is not there."""
    used = {(arm.head, draft.sidecar): arm for arm in plan.arms if (draft := arm.launch.draft) is not None}
    return tuple(_facts(label, sidecar, arm.launch.model) for (label, sidecar), arm in used.items())


def _facts(label: str, sidecar: Path | None, model: Path) -> HeadFacts:
    file = file_facts(sidecar) if sidecar is not None else None
    try:
        with open_model(sidecar or model) as opened:
            head = find_head(opened)
            digest = stored_head_digest(opened, head) if 0 < head.n_bytes <= _HASH_LIMIT_NBYTES else None
            return HeadFacts(label, file, digest, tuple(sorted(head.types.items())))
    except MtpgraftError:
        return HeadFacts(label, file, None)  # whether it can be used is the engine's to say
