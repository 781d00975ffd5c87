"""Proves a head file against the checkpoint it was made from: every tensor is computed again and compared."""

from __future__ import annotations

from mtpgraft.container import GGUFModel, Tensor
from mtpgraft.container.checkpoint import Checkpoint
from mtpgraft.errors import InputError
from mtpgraft.head import HeadState, find_head
from mtpgraft.hf.head import HeadPart, find_checkpoint_head
from mtpgraft.plan.keys import HEAD_SHA256
from mtpgraft.recipe import encoded
from mtpgraft.verify import Check, Progress, VerifyReport, holds, stored_head_digest


def verify_extract_checkpoint(out: GGUFModel, checkpoint: Checkpoint, progress: Progress | None = None) -> VerifyReport:
    """Hold a head file against the checkpoint. Types are the file's own: that they were asked for is not checked."""
    report = progress or (lambda n: None)
    head, wanted = find_head(out), find_checkpoint_head(checkpoint)
    declared = (out.architecture, head.n_trunk, head.declared)
    expected = (wanted.layout.arch, wanted.n_trunk, wanted.n_blocks)
    gapped = [shard.source.name for shard in out.shards if shard.has_gaps]
    state, problems = head.state.value, "; ".join(head.problems)
    checks = [
        Check("offsets without gaps, in table order", not gapped, "none", ", ".join(gapped) or "none"),
        Check("holds a head alone", head.state is HeadState.HEAD_FILE, "a head file", state, problems),
        Check("keys declare the head", declared == expected, str(expected), str(declared)),
    ]
    parts = {part.name: part for part in wanted.parts}
    bad: list[str] = []
    n_bytes = 0
    for tensor in head.tensors:
        part = parts.pop(tensor.name, None)
        if part is not None and _is_made_of(out, tensor, part, report):
            n_bytes += tensor.n_bytes
        else:
            bad.append(tensor.name)
    n_wanted, n_equal = len(wanted.parts), len(head.tensors) - len(bad)
    bad += [f"{name} is missing" for name in parts]
    name = "head tensors equal the checkpoint's"
    checks.append(Check(name, not bad, f"{n_wanted} equal", f"{n_equal} equal", bad[0] if bad else ""))
    digest = stored_head_digest(out, head)
    noted = out.text(HEAD_SHA256)
    if noted is not None:
        checks.append(Check("head digest as recorded", noted == digest, noted, digest))
    return VerifyReport(tuple(checks), (), tuple(t.name for t in out.tensors), 0, n_bytes, digest)


def _is_made_of(out: GGUFModel, tensor: Tensor, part: HeadPart, progress: Progress) -> bool:
    """Whether the file's data is what the recipe gives in the file's type."""
    if tensor.shape != part.shape:
        return False
    try:
        return holds(out, tensor, encoded(part.rows, tensor.type_id, out.byte_order), progress)
    except InputError:
        return False
