"""Are base and donor the same model? Their trunk norms say so: F32 in practically every quant, compared by value.

A few values of a few norms are enough, some 4 KB of a model of any size. They are also what `extract` writes into a
head file, which has no trunk norms of its own: its *fingerprint*.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from mtpgraft.container import GGUFModel, Key, ValueType
from mtpgraft.container.encode import make_array, make_key
from mtpgraft.container.types import BF16, F16, F32, tensor_type
from mtpgraft.errors import InvalidFileError
from mtpgraft.head import find_head
from mtpgraft.quantize import decode_rows
from mtpgraft.source.base import read_exactly

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

N_SAMPLED = 64
"""Values taken of each norm, its first ones: one range of 256 bytes."""

N_BLOCKS = 16
"""Blocks whose norm is sampled at most, spread evenly over the trunk."""

CLOSE_DISTANCE = 0.5
"""Largest distance of a finetune; see `Kinship.distance`.

Calibrated on small Qwen3.5 models trained for it (tests/data/kinship_norms.json has their norms): quants of one model
are at 0; finetunes on other text at 0.02 (100 steps, learning rate 1e-4) and 0.15 (300 steps at 1e-3, a third of
pretraining's peak); an independent run of the same shapes at 3.1, with a correlation of 0.06. Random models of one
architecture (fixtures/tiny) are near 1.4.
"""

# Norms of one model, one side without the +1 that zero-centred norms need: equal shapes, one apart.
_SHIFTED_CORRELATION = 0.99
_SHIFT_TOLERANCE = 0.05

NORMS_KEY = "mtpgraft.trunk_norms"
NAMES_KEY = "mtpgraft.trunk_norm_names"
TOKENS_KEY = "mtpgraft.tokens_sha256"

_BLOCK_NORMS = ("attn_norm", "hc_attn_norm", "post_attention_norm", "ffn_norm")
"""The first of these that a block has is sampled: every architecture with a head has one of them."""


class Verdict(Enum):
    """How two models are related."""

    SAME = "same"
    """Every sampled value is equal, or rounds to the same BF16. A finetune that left the norms alone (LoRA) is the
    same by this measure."""
    CLOSE = "close"
    """A finetune: different values that clearly come from the same ones."""
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    """One side has no trunk norms and no fingerprint, or they have none in common."""


@dataclass(frozen=True, slots=True)
class NormSample:
    """The first values of one norm, as float32 numbers."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is known of a model's identity.

    tokens_sha256: of the encoded items of tokenizer.ggml.tokens, or None. n_tokens: size of the vocabulary, or None.
    """

    norms: tuple[NormSample, ...]
    tokens_sha256: str | None
    n_tokens: int | None


@dataclass(frozen=True, slots=True)
class Kinship:
    """What comparing two models gave.

    n_norms, n_values: what was compared. n_equal: how many of the values are equal.
    distance: median over the norms of rms(a - b) / rms(spread of a and of b around their means). 0 is equal; two
        unrelated norms of equal spread are at 1.41, whatever their scale. None when nothing was compared.
    correlation: median over the norms of Pearson's r, or None.
    same_tokens: whether the tokenizers' lists are equal; None when one side does not say.
    n_tokens: vocabulary sizes of base and donor.
    explanation: one sentence for people.
    """

    verdict: Verdict
    n_norms: int
    n_values: int
    n_equal: int
    distance: float | None
    correlation: float | None
    same_tokens: bool | None
    n_tokens: tuple[int | None, int | None]
    explanation: str

    @property
    def same_vocabulary_size(self) -> bool | None:
        ours, theirs = self.n_tokens
        return None if ours is None or theirs is None else ours == theirs


def kinship(base: GGUFModel, donor: GGUFModel | Fingerprint) -> Kinship:
    """Compare a base with a donor: a model, a head file with a fingerprint in its keys, or a fingerprint.

    Raises TruncatedError or TransientError when a norm cannot be read.
    """
    theirs = donor if isinstance(donor, Fingerprint) else fingerprint(donor)
    names = tuple(sample.name for sample in theirs.norms)
    ours = Fingerprint(read_norms(base, names), tokens_sha256(base), n_tokens(base))
    return compare(ours, theirs)


def fingerprint(model: GGUFModel) -> Fingerprint:
    """This model's fingerprint: read from its trunk norms, or as `extract` stored it, or without norms."""
    norms = read_norms(model, _sampled_names(model)) or _stored_norms(model)
    return Fingerprint(norms, tokens_sha256(model), n_tokens(model))


def fingerprint_keys(model: GGUFModel) -> tuple[Key, ...]:
    """The keys that tell a head file's origin: what `extract` adds to it, in the model's byte order."""
    return encode_fingerprint(fingerprint(model), model.byte_order)


def encode_fingerprint(found: Fingerprint, byte_order: str) -> tuple[Key, ...]:
    """A fingerprint as keys; none for what is not known. The vocabulary's size has a key of its own."""
    keys: list[Key] = []
    if found.norms:
        n = len(found.norms[0].values)
        norms = [sample for sample in found.norms if len(sample.values) == n]
        values = [value for sample in norms for value in sample.values]
        keys.append(make_array(NAMES_KEY, ValueType.STRING, [sample.name for sample in norms], byte_order))
        keys.append(make_array(NORMS_KEY, ValueType.FLOAT32, values, byte_order))
    if found.tokens_sha256:
        keys.append(make_key(TOKENS_KEY, ValueType.STRING, found.tokens_sha256, byte_order))
    return tuple(keys)


def sampled_blocks(n_trunk: int) -> tuple[int, ...]:
    """The trunk blocks whose norms are compared: at most N_BLOCKS, the first and the last among them."""
    if n_trunk <= N_BLOCKS:
        return tuple(range(max(0, n_trunk)))
    return tuple(i * (n_trunk - 1) // (N_BLOCKS - 1) for i in range(N_BLOCKS))


def read_norms(model: GGUFModel, names: tuple[str, ...]) -> tuple[NormSample, ...]:
    """The first values of those of these tensors that are 1-D and F32, F16 or BF16."""
    found: list[NormSample] = []
    for name in names:
        tensor = model.tensor_by_name.get(name)
        if tensor is None or tensor.type_id not in (F32, F16, BF16) or tensor.shape[:1] != (tensor.n_elements,):
            continue
        n = min(tensor.n_elements, N_SAMPLED)
        n_bytes = tensor_type(tensor.type_id).nbytes((n,)) or 0
        raw = read_exactly(model.source_of(tensor), tensor.offset, n_bytes, f"tensor {name}")
        values = decode_rows(raw, 1, n, tensor.type_id, model.byte_order)[0]
        found.append(NormSample(name, tuple(values.tolist())))
    return tuple(found)


def tokens_sha256(model: GGUFModel) -> str | None:
    """sha256 over the encoded token list of a little-endian file, or the one noted in a head file; None without."""
    tokens = model.key("tokenizer.ggml.tokens")
    if tokens is not None and tokens.item_type is ValueType.STRING and tokens.byte_order == "<":
        return hashlib.sha256(tokens.value_bytes()).hexdigest()
    return model.text(TOKENS_KEY)


def n_tokens(model: GGUFModel) -> int | None:
    """Size of the vocabulary: of the tokenizer, the embedding, or a head file's own note."""
    tokens = model.key("tokenizer.ggml.tokens")
    if tokens is not None and tokens.is_array:
        return tokens.n_items
    embedding = model.tensor_by_name.get("token_embd.weight")
    if embedding is not None and len(embedding.shape) == 2:
        return embedding.shape[1]
    noted = model.key("mtpgraft.vocab_size")
    value = None if noted is None or noted.is_array else noted.scalar()
    return value if isinstance(value, int) else model.count("vocab_size")


def compare(ours: Fingerprint, theirs: Fingerprint) -> Kinship:
    """Base and donor by their fingerprints."""
    import numpy as np

    by_name = {sample.name: sample.values for sample in ours.norms}
    pairs: list[tuple[Floats, Floats]] = []
    for sample in theirs.norms:
        mine = by_name.get(sample.name)
        if mine is not None and len(mine) == len(sample.values):
            pairs.append((np.array(mine, np.float32), np.array(sample.values, np.float32)))
    tokens = (ours.tokens_sha256, theirs.tokens_sha256)
    same_tokens = None if None in tokens else tokens[0] == tokens[1]
    sizes = (ours.n_tokens, theirs.n_tokens)
    if not pairs:
        return Kinship(Verdict.UNKNOWN, 0, 0, 0, None, None, same_tokens, sizes, _unknown(ours, theirs))
    n_values = sum(a.size for a, _ in pairs)
    n_equal = sum(int((a == b).sum()) for a, b in pairs)
    same = all(_equal_as_bf16(a, b) for a, b in pairs)
    distance = float(np.median([_distance(a, b) for a, b in pairs]))
    correlation = float(np.median([_correlation(a, b) for a, b in pairs]))
    verdict = Verdict.SAME if same else Verdict.CLOSE if distance <= CLOSE_DISTANCE else Verdict.DIFFERENT
    with np.errstate(all="ignore"):
        shift = float(np.median([np.median(b - a) for a, b in pairs]))
    text = _explanation(verdict, len(pairs), n_equal, n_values, distance, correlation, shift)
    return Kinship(verdict, len(pairs), n_values, n_equal, distance, correlation, same_tokens, sizes, text)


def _sampled_names(model: GGUFModel) -> tuple[str, ...]:
    names = ["output_norm.weight"]
    for i in sampled_blocks(find_head(model).n_trunk):
        spellings = (f"blk.{i}.{norm}.weight" for norm in _BLOCK_NORMS)
        names += [name for name in spellings if name in model.tensor_by_name][:1]
    # A sidecar has the root norm alone: one norm is no fingerprint where a better one may be stored.
    return tuple(names) if len(names) > 1 else ()


def _stored_norms(model: GGUFModel) -> tuple[NormSample, ...]:
    names, values = model.key(NAMES_KEY), model.key(NORMS_KEY)
    if names is None or values is None or names.item_type is not ValueType.STRING or not names.n_items:
        return ()
    n, rest = divmod(values.n_items, names.n_items)
    if values.item_type is not ValueType.FLOAT32 or rest or not n:
        raise InvalidFileError(
            "does not fit the names beside it",
            file=model.name,
            where=f"key {NORMS_KEY}",
            expected=f"a multiple of {names.n_items} numbers",
            found=f"{values.n_items} items",
        )
    floats = [float(value) for value in values.items()]
    return tuple(NormSample(str(name), tuple(floats[i * n : (i + 1) * n])) for i, name in enumerate(names.items()))


def _equal_as_bf16(a: Floats, b: Floats) -> bool:
    """Equal, or equal once rounded to BF16: as they are or, as zero-centred norms are stored, minus one."""
    import numpy as np

    return bool(np.array_equal(a, b) or any(np.array_equal(_bf16(a - c), _bf16(b - c)) for c in (0.0, 1.0)))


def _bf16(values: Floats) -> NDArray[np.uint32]:
    import numpy as np

    bits = values.astype(np.float32).view(np.uint32)
    rounded: NDArray[np.uint32] = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return rounded


def _distance(a: Floats, b: Floats) -> float:
    import numpy as np

    with np.errstate(all="ignore"):
        spread = np.sqrt((a.var(dtype=np.float64) + b.var(dtype=np.float64)) / 2)
        apart = np.sqrt(np.mean((a.astype(np.float64) - b) ** 2))
    if not np.isfinite(apart):
        return float("inf")
    return 0.0 if apart == 0 else float(apart / spread) if spread > 0 else float("inf")


def _correlation(a: Floats, b: Floats) -> float:
    import numpy as np

    with np.errstate(all="ignore"):
        centred_a, centred_b = a.astype(np.float64) - a.mean(), b.astype(np.float64) - b.mean()
        scale = np.sqrt((centred_a**2).sum() * (centred_b**2).sum())
        return float((centred_a * centred_b).sum() / scale) if scale > 0 else float(np.array_equal(a, b))


def _unknown(ours: Fingerprint, theirs: Fingerprint) -> str:
    if not theirs.norms:
        return "whether the donor is of the same model is not known: it has no trunk norms and no fingerprint"
    if not ours.norms:
        return "whether the donor is of the same model is not known: the base has no trunk norms to compare"
    return "whether the donor is of the same model is not known: they have no trunk norm in common"


def _explanation(
    verdict: Verdict, n_norms: int, n_equal: int, n_values: int, distance: float, correlation: float, shift: float
) -> str:
    compared = f"{n_equal} of {n_values} values of {n_norms} trunk norms are equal"
    if verdict is Verdict.SAME:
        return f"base and donor have the same trunk norms ({compared}): the same model, or a finetune that kept them"
    numbers = f"{compared}, distance {distance:.3f}, correlation {correlation:.3f}"
    if verdict is Verdict.CLOSE:
        return f"base and donor are related, one a finetune of the other ({numbers}): drafts may be accepted less often"
    if correlation > _SHIFTED_CORRELATION and abs(abs(shift) - 1) < _SHIFT_TOLERANCE:
        which = "donor" if shift < 0 else "base"
        why = "converted without the +1 that zero-centred norms need"
        return f"the {which}'s norms are shifted by one, {why} ({numbers})"
    return f"base and donor are different models ({numbers})"
