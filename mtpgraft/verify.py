"""Proves a result: trunk bytes equal to the base's, head equal to the donor's or to its requantization.

Everything is read again from the files; nothing is believed because a plan said so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from mtpgraft.compare import Proven, same_bytes
from mtpgraft.container import GGUFModel, Tensor
from mtpgraft.errors import InputError, RefusedError
from mtpgraft.head import Head, HeadState, find_head, head_digest
from mtpgraft.plan.keys import HEAD_SHA256, OWN, SPLIT_KEYS, key_changes
from mtpgraft.plan.values import KeyChange
from mtpgraft.quantize import convert
from mtpgraft.source.base import Source, read_chunks, read_exactly_into

_MAX_PADDING_NBYTES = 2**16
"""Most that is compared along with the tensors on both sides of it."""

Progress = Callable[[int], None]


class Samples(Protocol):
    """What is known of a trunk that was moved, not copied (inplace/samples.py)."""

    @property
    def sampled_nbytes(self) -> int: ...

    def holds_for(self, source: Source, data_start: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was held against another. `detail` names the first tensor or key that differs."""

    name: str
    ok: bool
    expected: str
    observed: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked, and what a graft changed.

    trunk_nbytes, head_nbytes: bytes compared. head_sha256: digest of the head as it is in the file.
    """

    checks: tuple[Check, ...]
    key_changes: tuple[KeyChange, ...]
    added_tensors: tuple[str, ...]
    trunk_nbytes: int
    head_nbytes: int
    head_sha256: str | None

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


@dataclass(slots=True)
class _Tally:
    """proven: what was compared while it was copied."""

    progress: Progress
    proven: tuple[Proven, ...] = ()
    checks: list[Check] = field(default_factory=list)

    def add(self, name: str, ok: bool, expected: object, observed: object, detail: str = "") -> None:
        self.checks.append(Check(name, ok, str(expected), str(observed), detail))


def verify_graft(
    out: GGUFModel,
    base: GGUFModel,
    donor: GGUFModel | None = None,
    progress: Progress | None = None,
    samples: Samples | None = None,
    proven: tuple[Proven, ...] = (),
) -> VerifyReport:
    """Hold a grafted model against its base and, when given, the donor of its head.

    samples: of the base's trunk, after a change in place, when the base's own bytes are no more.
    proven: what was read back and compared already, while it was copied.
    """
    tally = _Tally(progress or (lambda n: None), proven)
    head, base_head = find_head(out), find_head(base)
    _check_layout(tally, out)
    trunk_nbytes = _check_trunk(tally, out, head, base, base_head, samples)
    _check_keys(tally, out, head, base)
    _check_declaration(tally, out, head)
    sha = _check_digest(tally, out, head)
    head_nbytes = 0 if donor is None else _check_head(tally, out, head, donor)
    changes = key_changes(base.keys, out.keys)
    added = tuple(t.name for t in out.tensors if t.name not in base.tensor_by_name)
    return VerifyReport(tuple(tally.checks), changes, added, trunk_nbytes, head_nbytes, sha)


def verify_strip(
    out: GGUFModel,
    model: GGUFModel,
    progress: Progress | None = None,
    samples: Samples | None = None,
    proven: tuple[Proven, ...] = (),
) -> VerifyReport:
    """Hold a stripped model against the one it was made from. samples, proven: as for verify_graft."""
    tally = _Tally(progress or (lambda n: None), proven)
    head, old_head = find_head(out), find_head(model)
    _check_layout(tally, out)
    trunk_nbytes = _check_trunk(tally, out, head, model, old_head, samples)
    tally.add("no head is left", not head.blocks, "none", f"{len(head.blocks)} blocks")
    changes = key_changes(model.keys, out.keys)
    return VerifyReport(tuple(tally.checks), changes, (), trunk_nbytes, 0, None)


def verify_extract(
    out: GGUFModel, donor: GGUFModel, progress: Progress | None = None, proven: tuple[Proven, ...] = ()
) -> VerifyReport:
    """Hold a head file or sidecar against its donor. proven: as for verify_graft."""
    tally = _Tally(progress or (lambda n: None), proven)
    head = find_head(out)
    _check_layout(tally, out)
    expected = (HeadState.SIDECAR, HeadState.HEAD_FILE)
    tally.add(
        "holds a head alone",
        head.state in expected,
        "a head file",
        head.state.value,
        "; ".join(head.problems),
    )
    n_bytes = _check_head(tally, out, head, donor)
    head_names = {tensor.name for tensor in head.tensors}
    for tensor in out.tensors:
        if tensor.name not in head_names:
            theirs = donor.tensor_by_name.get(tensor.name)
            same = theirs is not None and _same_data(out, tensor, donor, theirs, tally)
            tally.add(f"{tensor.name} equals the donor's", same, "equal", "equal" if same else "different")
    sha = _check_digest(tally, out, head)
    return VerifyReport(tuple(tally.checks), (), tuple(t.name for t in out.tensors), 0, n_bytes, sha)


def _check_layout(tally: _Tally, out: GGUFModel) -> None:
    gapped = [shard.source.name for shard in out.shards if shard.has_gaps]
    tally.add("offsets without gaps, in table order", not gapped, "none", ", ".join(gapped) or "none")


def _check_trunk(
    tally: _Tally, out: GGUFModel, head: Head, base: GGUFModel, base_head: Head, samples: Samples | None
) -> int:
    ours, theirs = _trunk(out, head), _trunk(base, base_head)
    table = [(t.name, t.shape, t.type_id) for t in ours]
    wanted = [(t.name, t.shape, t.type_id) for t in theirs]
    detail = ""
    if table != wanted:
        pairs = zip([*table, None], [*wanted, None], strict=False)
        first = next((f"{b or 'nothing'} became {o or 'nothing'}" for o, b in pairs if o != b), "another order")
        detail = first
    tally.add("trunk tensors: names, shapes, types, order", table == wanted, len(wanted), len(table), detail)
    if samples is not None:
        alike = [(t.offset - out.shards[0].data_start, t.n_bytes) for t in ours] == [
            (t.offset - base.shards[0].data_start, t.n_bytes) for t in theirs
        ]
        same = alike and samples.holds_for(out.shards[0].source, out.shards[0].data_start)
        tally.add("trunk: samples (moved, not copied)", same, "equal", "equal" if same else "different")
        return samples.sampled_nbytes if same else 0
    n_equal, n_bytes, first_bad = _compare_trunks(out, ours, base, theirs, tally)
    tally.add(
        "trunk tensors: every byte",
        n_equal == len(theirs),
        f"{len(theirs)} equal",
        f"{n_equal} equal",
        first_bad,
    )
    return n_bytes


def _compare_trunks(
    out: GGUFModel, ours: list[Tensor], base: GGUFModel, theirs: list[Tensor], tally: _Tally
) -> tuple[int, int, str]:
    """(equal tensors, bytes in them, first that differs). Tensors that lie alike in both files are read as one."""
    by_name = {tensor.name: tensor for tensor in ours}
    n_equal = n_bytes = 0
    first_bad = ""
    for group in _lying_alike(theirs, by_name):
        first, last = group[0], group[-1]
        mine = by_name.get(first.name)
        if mine is not None and len(group) > 1:
            n = last.offset + last.n_bytes - first.offset
            sides = (out.source_of(mine), mine.offset, base.source_of(first), first.offset)
            if same_bytes(*sides, n, tally.progress, tally.proven):
                n_equal, n_bytes = n_equal + len(group), n_bytes + sum(tensor.n_bytes for tensor in group)
                continue
        for tensor in group:  # alone, or to find which of them differs (the padding between them may, harmlessly)
            mine = by_name.get(tensor.name)
            if mine is not None and mine.n_bytes >= tensor.n_bytes and _same_raw(out, mine, base, tensor, tally):
                n_equal, n_bytes = n_equal + 1, n_bytes + tensor.n_bytes
            elif not first_bad:
                first_bad = tensor.name
    return n_equal, n_bytes, first_bad


def _lying_alike(theirs: list[Tensor], by_name: dict[str, Tensor]) -> Iterator[list[Tensor]]:
    """Runs of neighbours whose distances and lengths are the same in the other file."""
    group: list[Tensor] = []
    previous: Tensor | None = None
    for tensor in theirs:
        mine = by_name.get(tensor.name)
        if (
            group
            and mine is not None
            and previous is not None
            and mine.n_bytes == tensor.n_bytes
            and (mine.shard, tensor.shard) == (previous.shard, group[-1].shard)
            and tensor.offset - group[-1].offset == mine.offset - previous.offset
            and 0 <= tensor.offset - group[-1].offset - group[-1].n_bytes < _MAX_PADDING_NBYTES
        ):
            group.append(tensor)
        else:
            if group:
                yield group
            group = [tensor]
        previous = mine if mine is not None and mine.n_bytes == tensor.n_bytes else None
    if group:
        yield group


def _trunk(model: GGUFModel, head: Head) -> list[Tensor]:
    names = {tensor.name for tensor in head.tensors}
    return [tensor for tensor in model.tensors if tensor.name not in names]


def _check_keys(tally: _Tally, out: GGUFModel, head: Head, base: GGUFModel) -> None:
    arch = base.architecture
    may_change = {f"{arch}.block_count", f"{arch}.nextn_predict_layers", *SPLIT_KEYS}
    if head.spec is not None:
        may_change |= {f"{arch}.{rule.key}" for rule in head.spec.arrays}
    else:
        may_change |= {key.name for key in base.keys if key.is_array and key.name.startswith(arch + ".")}
    may_appear = {f"{arch}.nextn_predict_layers", *SPLIT_KEYS}
    bad = [
        change.name
        for change in key_changes(base.keys, out.keys)
        if change.name not in (may_appear if change.before is None else may_change)
    ]
    ours = [key.name for key in out.keys if not key.name.startswith(OWN) and key.name not in may_appear]
    theirs = [key.name for key in base.keys if not key.name.startswith(OWN) and key.name not in may_appear]
    tally.add("keys: only those of the head change", not bad, "none", ", ".join(bad[:5]) or "none")
    tally.add("keys: order", ours == theirs, f"{len(theirs)} in order", f"{len(ours)}")


def _check_declaration(tally: _Tally, out: GGUFModel, head: Head) -> None:
    whole = head.n_trunk + len(head.blocks)
    tally.add("head is whole", head.state is HeadState.OK, "ok", head.state.value, "; ".join(head.problems[:3]))
    declared = (head.block_count, head.declared)
    tally.add("keys declare the head", declared == (whole, len(head.blocks)), (whole, len(head.blocks)), declared)
    for rule in head.spec.arrays if head.spec else ():
        key = out.hparam(rule.key)
        if key is not None and key.is_array:
            tally.add(f"array {key.name} has one item per block", key.n_items == whole, whole, key.n_items)


def stored_head_digest(out: GGUFModel, head: Head) -> str:
    """The digest of the head as it is in the file: all its data is read."""
    rows = []
    for number, block in enumerate(head.blocks):
        for tensor in block.tensors:
            sha = hashlib.sha256()
            for chunk in read_chunks(out.source_of(tensor), tensor.offset, tensor.n_bytes, f"tensor {tensor.name}"):
                sha.update(chunk)
            rows.append((number, block.local_name(tensor), tensor.shape, tensor.type_id, sha.hexdigest()))
    return head_digest(rows)


def _check_digest(tally: _Tally, out: GGUFModel, head: Head) -> str | None:
    if not head.blocks:
        return None
    digest = stored_head_digest(out, head)
    noted = out.text(HEAD_SHA256)
    if noted is not None:
        tally.add("head digest as recorded", noted == digest, noted, digest)
    return digest


def _check_head(tally: _Tally, out: GGUFModel, head: Head, donor: GGUFModel) -> int:
    donor_head = find_head(donor)
    theirs = {
        (number, block.local_name(tensor)): tensor
        for number, block in enumerate(donor_head.blocks)
        for tensor in block.tensors
    }
    n_bytes = n_equal = n_requantized = 0
    n_tensors = len(head.tensors)
    first_bad = ""
    for number, block in enumerate(head.blocks):
        for tensor in block.tensors:
            source = theirs.pop((number, block.local_name(tensor)), None)
            if source is not None and _same_data(out, tensor, donor, source, tally):
                n_equal += 1
                n_requantized += source.type_id != tensor.type_id
                n_bytes += tensor.n_bytes
            elif not first_bad:
                first_bad = tensor.name
    left = [name for number, name in theirs if number < len(head.blocks)]
    first_bad = first_bad or (f"the donor's {left[0]} is missing" if left else "")
    observed = f"{n_equal} equal" + (f", {n_requantized} of them to its requantization" if n_requantized else "")
    ok = n_equal == n_tensors and n_tensors > 0 and not left
    tally.add("head tensors equal the donor's", ok, f"{n_tensors} equal", observed, first_bad)
    return n_bytes


def _same_data(out: GGUFModel, ours: Tensor, donor: GGUFModel, theirs: Tensor, tally: _Tally) -> bool:
    """Equal data, or data equal to what the donor's becomes in our type."""
    if ours.shape != theirs.shape:
        return False
    if ours.type_id == theirs.type_id and out.byte_order == donor.byte_order:
        return _same_raw(out, ours, donor, theirs, tally)
    try:
        expected = convert(
            donor.source_of(theirs), theirs.offset, theirs.shape, theirs.type_id, ours.type_id,
            donor.byte_order, out.byte_order,
        )  # fmt: skip
        return holds(out, ours, expected, tally.progress)
    except (InputError, RefusedError):  # not TransientError: a failing disk says nothing about the data
        return False


def holds(model: GGUFModel, tensor: Tensor, chunks: Iterable[bytes | memoryview], progress: Progress) -> bool:
    """Whether a tensor's data is these chunks, one after the other, and nothing more."""
    position = 0
    mine = bytearray()
    for chunk in chunks:
        if len(chunk) != len(mine):
            mine = bytearray(len(chunk))
        with memoryview(mine) as view:
            read_exactly_into(model.source_of(tensor), tensor.offset + position, view, f"tensor {tensor.name}")
        if not mine.startswith(chunk):  # of the same length; a memoryview's == compares number by number
            return False
        position += len(chunk)
        progress(len(chunk))
    return position == tensor.n_bytes


def _same_raw(a: GGUFModel, ours: Tensor, b: GGUFModel, theirs: Tensor, tally: _Tally) -> bool:
    n_bytes = min(ours.n_bytes, theirs.n_bytes)
    if abs(ours.n_bytes - theirs.n_bytes) >= max(a.alignment, b.alignment):
        return False  # a type of unknown size is measured with its padding, which may differ in length
    sides = (a.source_of(ours), ours.offset, b.source_of(theirs), theirs.offset)
    return same_bytes(*sides, n_bytes, tally.progress, tally.proven)
