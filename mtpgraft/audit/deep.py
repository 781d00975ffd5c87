"""Reads a head's data: is it alive, and are its norms on the right side of the +1?

Calibration of the norm rules. Qwen3-Next, Qwen3.5/3.6 and Step3.5 store norms minus one; GGUF holds them plus one.
- Right: the trained fixture's head norms have means 0.72 to 1.34 and no value below 0.28; field reports give a mean of
  0.56 for Qwen's enorm (waybarrios/vllm-mlx#400). No trained norm that was looked at has a tenth of its values below 0.
- Raw (-1 too low): the same enorm has a mean of -0.44, nearly all its values negative; the fixture's seven norms have
  shares of negative values from 2 % (q and k norms) to 99 %, four of them above 25 %.
- Twice (+1 too high): every value of every norm of the fixture's head is above 1.2. Right norms have at least one norm
  with a fifth of its values below 1, and so have those of the trunk, which are looked at to be sure.
A share of 25 % negative values in two norms, or a negative mean, is called raw; 98 % above 1 in every head norm, where
the trunk's are not, is called twice. Both are far from every right and wrong norm above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtpgraft.audit import rules
from mtpgraft.audit.build import at, finding
from mtpgraft.audit.values import Finding
from mtpgraft.container import GGUFModel, Tensor, tensor_type
from mtpgraft.container.types import Q8_0
from mtpgraft.errors import InvalidFileError
from mtpgraft.head import Head, significant_dims
from mtpgraft.kinship import read_norms, sampled_blocks
from mtpgraft.plan.keys import HEAD_SHA256
from mtpgraft.quantize import can_read, decode_rows
from mtpgraft.source.base import read_exactly
from mtpgraft.verify import stored_head_digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CHUNK_ELEMENTS = 1 << 20
_MAX_NORM_ELEMENTS = 1 << 20

MAX_Q8_0_SCALE = 1.0
"""A block of scale 1 holds a weight of 127. Weights of released models stay below 10, scales below 0.1."""

NEGATIVE_SHARE = 0.25
ABOVE_ONE_SHARE = 0.98
TRUNK_ABOVE_ONE_SHARE = 0.9

_TRUNK_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm")


@dataclass(slots=True)
class _Seen:
    """What reading a tensor gave. first_bad: index of the first element that is NaN or infinite."""

    low: float = float("inf")
    high: float = float("-inf")
    n: int = 0
    first_bad: int | None = None
    bad_scale: float | None = None


def deep_findings(model: GGUFModel, head: Head, label: str) -> tuple[Finding, ...]:
    """Findings from the head's data. Raises TruncatedError or TransientError when it cannot be read."""
    found: list[Finding] = []
    unread: list[Tensor] = []
    for block in head.blocks:
        for tensor in block.tensors:
            if not can_read(tensor.type_id) or not tensor.n_elements:
                unread.append(tensor)
                continue
            found += _judged(tensor, block.local_name(tensor), _read(model, tensor), label)
    if unread:
        names = ", ".join(sorted({tensor.type.name for tensor in unread}))
        observed = f"{len(unread)} tensors of type {names}"
        found.append(finding(rules.NOT_CHECKED, label, "readable types", observed, (at(unread[0]),)))
    if not any(f.rule in (rules.NOT_FINITE, rules.ALL_ZERO) for f in found):
        found += norm_findings(model, head, label)
    return (*found, *_digest_findings(model, head, label))


def _digest_findings(model: GGUFModel, head: Head, label: str) -> tuple[Finding, ...]:
    """Whether a head that mtpgraft wrote is still the head that it wrote."""
    noted = model.text(HEAD_SHA256)
    if noted is None:
        return ()
    digest = stored_head_digest(model, head)
    return () if digest == noted else (finding(rules.OTHER_DATA, label, noted, digest, (f"key {HEAD_SHA256}",)),)


def norm_findings(model: GGUFModel, head: Head, label: str) -> list[Finding]:
    """Whether the head's norms have their +1, once. Nothing for architectures whose norms are stored as they are."""
    if not is_zero_centred(head.architecture):
        return []
    norms = {t.name: values for t in head_norms(head) if (values := _values(model, t)) is not None}
    if not norms:
        return []
    negative = {name: float((values < 0).mean()) for name, values in norms.items()}
    means = {name: float(values.mean()) for name, values in norms.items()}
    raw = [name for name, share in negative.items() if share >= NEGATIVE_SHARE]
    if len(raw) > 1 or any(mean < 0 for mean in means.values()):
        worst = min(means, key=lambda name: means[name])
        evidence = tuple(f"tensor {n}: mean {means[n]:.3f}, {negative[n]:.0%} negative" for n in raw or [worst])
        return [finding(rules.NORMS_RAW, label, "positive norms", f"{worst} has mean {means[worst]:.3f}", evidence)]
    above = {name: float((values > 1).mean()) for name, values in norms.items()}
    trunk = _trunk_above_one(model, head)
    if min(above.values()) >= ABOVE_ONE_SHARE and trunk is not None and trunk <= TRUNK_ABOVE_ONE_SHARE:
        evidence = tuple(f"tensor {n}: mean {means[n]:.3f}, {above[n]:.0%} above 1" for n in norms)
        expected = f"norms as in the trunk, {trunk:.0%} of whose values are above 1"
        return [finding(rules.NORMS_TWICE, label, expected, "nearly all values above 1", evidence)]
    return []


def head_norms(head: Head) -> list[Tensor]:
    """The norms that a converter of zero-centred norms adds 1 to."""
    return [t for t in head.tensors if t.name.endswith("norm.weight") and len(significant_dims(t.shape)) == 1]


def is_zero_centred(architecture: str) -> bool:
    """Whether Hugging Face stores this architecture's norms minus one."""
    from mtpgraft.hf.layout import all_layouts

    return any(layout.zero_centred for layout in all_layouts() if layout.arch == architecture)


def _judged(tensor: Tensor, local_name: str, seen: _Seen, label: str) -> list[Finding]:
    place = (at(tensor),)
    if seen.first_bad is not None:
        observed = f"{tensor.name}: element {seen.first_bad} is not finite"
        return [finding(rules.NOT_FINITE, label, "finite numbers", observed, place)]
    if seen.bad_scale is not None:
        observed = f"{tensor.name}: a scale of {seen.bad_scale:g}"
        return [finding(rules.BAD_SCALES, label, f"scales from 0 to {MAX_Q8_0_SCALE:g}", observed, place)]
    is_norm = local_name.endswith("norm.weight")
    is_matrix = local_name.endswith(".weight") and len(significant_dims(tensor.shape)) > 1
    if seen.low == seen.high == 0 and (is_norm or is_matrix):
        return [finding(rules.ALL_ZERO, label, "numbers", f"{tensor.name}: {seen.n} zeros", place)]
    if seen.low == seen.high and is_matrix:
        observed = f"{tensor.name}: {seen.n} times {seen.low:g}"
        return [finding(rules.CONSTANT, label, "different numbers", observed, place)]
    return []


def _read(model: GGUFModel, tensor: Tensor) -> _Seen:
    import numpy as np

    seen = _Seen()
    for raw, n_rows in _chunks(model, tensor):
        if tensor.type_id == Q8_0:
            scales = np.frombuffer(raw, np.uint8).reshape(-1, 34)[:, :2].copy().view(f"{model.byte_order}f2")
            finite = scales[np.isfinite(scales)].astype(np.float32)
            odd = finite[(finite < 0) | (finite > MAX_Q8_0_SCALE)]
            if odd.size and seen.bad_scale is None:
                seen.bad_scale = float(odd[0])
        with np.errstate(all="ignore"):
            values = decode_rows(raw, n_rows, tensor.row, tensor.type_id, model.byte_order)
        bad = ~np.isfinite(values)
        if bad.any():
            seen.first_bad = seen.n + int(bad.argmax())
            return seen
        seen.low, seen.high = min(seen.low, float(values.min())), max(seen.high, float(values.max()))
        seen.n += values.size
    return seen


def _chunks(model: GGUFModel, tensor: Tensor) -> Iterator[tuple[bytes, int]]:
    """The tensor's data in whole rows, with their number."""
    row = tensor.row
    row_nbytes = tensor_type(tensor.type_id).nbytes((row,))
    if row_nbytes is None:
        raise InvalidFileError("its rows do not fill blocks", file=model.name, where=f"tensor {tensor.name}")
    n_rows, source = tensor.n_elements // row, model.source_of(tensor)
    step = max(1, _CHUNK_ELEMENTS // row)
    for first in range(0, n_rows, step):
        n = min(step, n_rows - first)
        raw = read_exactly(source, tensor.offset + first * row_nbytes, n * row_nbytes, f"tensor {tensor.name}")
        yield raw, n


def _values(model: GGUFModel, tensor: Tensor) -> NDArray[np.float32] | None:
    if not can_read(tensor.type_id) or not 0 < tensor.n_elements <= _MAX_NORM_ELEMENTS:
        return None
    import numpy as np

    parts = [decode_rows(raw, n, tensor.row, tensor.type_id, model.byte_order) for raw, n in _chunks(model, tensor)]
    return np.concatenate(parts).reshape(-1)


def _trunk_above_one(model: GGUFModel, head: Head) -> float | None:
    """The least share of values above 1 among the trunk's block norms, or None without them."""
    names = tuple(f"blk.{i}.{norm}.weight" for i in sampled_blocks(head.n_trunk) for norm in _TRUNK_NORMS)
    samples = read_norms(model, names)
    shares = [sum(value > 1 for value in sample.values) / len(sample.values) for sample in samples if sample.values]
    return min(shares, default=None)
