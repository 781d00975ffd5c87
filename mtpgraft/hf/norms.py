"""The fingerprint of a checkpoint's trunk: a few values of its norms, as a GGUF of it would hold them."""

from __future__ import annotations

from collections.abc import Iterator

from mtpgraft.container.checkpoint import Checkpoint
from mtpgraft.hf.head import find_checkpoint_head, find_layout
from mtpgraft.hf.keys import vocabulary_size
from mtpgraft.kinship import N_SAMPLED, Fingerprint, NormSample, sampled_blocks
from mtpgraft.recipe import READABLE_DTYPES, Plus, Rows, Stored


def checkpoint_fingerprint(checkpoint: Checkpoint) -> Fingerprint:
    """What `kinship.fingerprint` gives for a GGUF of this checkpoint (without the hash of its tokens).

    Only the first values of a few norms are read, some 4 KB in all. Raises RefusedError for an architecture that is not
    known.
    """
    layout, config = find_layout(checkpoint)
    samples: list[NormSample] = []
    for hf_name, gguf_name in _norm_names(layout.trunk_norms, config.n_trunk):
        found = next((name for name in _spellings(hf_name) if name in checkpoint), None)
        if found is None:
            continue
        tensor = checkpoint.tensor(found)
        if len(tensor.shape) != 1 or tensor.dtype not in READABLE_DTYPES or not tensor.shape[0]:
            continue
        n = min(tensor.shape[0], N_SAMPLED)
        rows: Rows = Stored(tensor.source, tensor.name, tensor.offset, tensor.dtype, 1, n)
        if layout.zero_centred:
            rows = Plus(rows, 1.0)
        samples.append(NormSample(gguf_name, tuple(rows.read(0, 1)[0].tolist())))
    return Fingerprint(tuple(samples), None, vocabulary_size(config))


def checkpoint_head_norms(checkpoint: Checkpoint) -> Fingerprint:
    """The first values of each norm of a checkpoint's head, named `<number of the head block>.<local name>`.

    Raises what `find_checkpoint_head` raises.
    """
    samples = [
        NormSample(f"{part.block}.{part.local_name}", tuple(part.rows.read(0, 1)[0][:N_SAMPLED].tolist()))
        for part in find_checkpoint_head(checkpoint).parts
        if part.name.endswith("norm.weight") and len(part.shape) == 1
    ]
    return Fingerprint(tuple(samples), None, None)


def _norm_names(patterns: tuple[tuple[str, str], ...], n_trunk: int) -> Iterator[tuple[str, str]]:
    for hf_name, gguf_name in patterns:
        for i in sampled_blocks(n_trunk) if "{i}" in hf_name else (0,):
            yield hf_name.replace("{i}", str(i)), gguf_name.replace("{i}", str(i))


def _spellings(name: str) -> tuple[str, ...]:
    """`model.norm.weight` is `model.language_model.norm.weight` or `language_model.model.norm.weight` in models that
    see or hear (TextModel.filter_tensors drops the word)."""
    prefix, _, rest = name.partition(".")
    return name, f"{prefix}.language_model.{rest}", f"language_model.{name}"
