"""Plans a head file: a donor (the head alone) or a sidecar (what llama.cpp loads with -md)."""

from __future__ import annotations

from pathlib import Path

from mtpgraft import __version__
from mtpgraft.container import GGUFModel, Key, ValueType
from mtpgraft.container.encode import make_array, make_key
from mtpgraft.errors import RefusedError
from mtpgraft.head import Head
from mtpgraft.kinship import fingerprint_keys, n_tokens
from mtpgraft.plan.donor import plan_head, require_head, retyped
from mtpgraft.plan.keys import HEAD_SHA256, OWN, SPLIT_KEYS, with_value
from mtpgraft.plan.values import FilePlan, OutTensor, SurgeryPlan

DONOR, SIDECAR = "donor", "sidecar"

# Of the general.* keys, those that say what the head came from and how it may be used.
_GENERAL = (
    "general.architecture",
    "general.name",
    "general.basename",
    "general.version",
    "general.organization",
    "general.finetune",
    "general.license",
    "general.license.link",
    "general.repo_url",
    "general.source.url",
    "general.source.repo_url",
    "general.file_type",
    "general.quantization_version",
    "general.alignment",
)


def plan_extract(donor: GGUFModel, head: Head, out: Path, kind: str = DONOR, wanted_type: str = "keep") -> SurgeryPlan:
    """The plan of `mtpgraft extract`. Names, types (unless changed) and block index stay the donor's own.

    Raises RefusedError when there is no whole head, or when a sidecar cannot be made of it.
    """
    require_head(donor, head)
    order, alignment = donor.byte_order, donor.alignment
    planned = plan_head(donor, head, wanted_type, head.blocks[0].index, alignment, order)
    roots: tuple[OutTensor, ...] = ()
    warnings = [*head.assumptions, *planned.warnings]
    if kind == SIDECAR:
        roots, root_warnings = _sidecar_roots(donor, head, wanted_type)
        warnings += root_warnings
        keys = _sidecar_keys(donor, head)
    else:
        keys = _head_file_keys(donor, head)
    keys = _with_declaration(donor, keys, head.blocks[0].index, planned.n_blocks)
    file = FilePlan(
        path=out,
        version=max(shard.version for shard in donor.shards),
        byte_order=order,
        alignment=alignment,
        keys=(*keys, *_provenance(donor, head, kind)),
        tensors=(*roots, *planned.tensors),
        digest_key=HEAD_SHA256,
    )
    return SurgeryPlan("extract", None, donor.name, (file,), (), planned.rows, tuple(warnings))


def _head_file_keys(donor: GGUFModel, head: Head) -> tuple[Key, ...]:
    prefix = head.architecture + "."
    return tuple(key for key in donor.keys if key.name in _GENERAL or key.name.startswith(prefix))


def _sidecar_keys(donor: GGUFModel, head: Head) -> tuple[Key, ...]:
    """All of the donor's keys, but for those by which llama.cpp would ask for trunk tensors."""
    prefix = head.architecture + "."
    dropped = tuple(prefix + name for name in head.spec.sidecar_drop_keys) if head.spec else ()
    return tuple(
        key
        for key in donor.keys
        if not key.name.startswith(OWN)
        and key.name not in SPLIT_KEYS
        and not any(key.name.startswith(name) if name.endswith(".") else key.name == name for name in dropped)
    )


def _with_declaration(donor: GGUFModel, keys: tuple[Key, ...], n_trunk: int, n_blocks: int) -> tuple[Key, ...]:
    """The keys with a block count and head count that agree with the tensors, also for an orphan's donor."""
    arch = donor.architecture
    out: list[Key] = []
    for key in keys:
        if key.name == f"{arch}.block_count":
            out.append(with_value(key, n_trunk + n_blocks))
            if donor.hparam("nextn_predict_layers") is None:
                out.append(make_key(f"{arch}.nextn_predict_layers", ValueType.UINT32, n_blocks, donor.byte_order))
        elif key.name == f"{arch}.nextn_predict_layers":
            out.append(with_value(key, n_blocks))
        else:
            out.append(key)
    return tuple(out)


def _provenance(donor: GGUFModel, head: Head, kind: str) -> tuple[Key, ...]:
    order = donor.byte_order
    keys = [
        make_key("mtpgraft.version", ValueType.STRING, __version__, order),
        make_key("mtpgraft.kind", ValueType.STRING, kind, order),
        make_key("mtpgraft.donor", ValueType.STRING, donor_label(donor), order),
        make_key(HEAD_SHA256, ValueType.STRING, "0" * 64, order),
        make_array("mtpgraft.head_blocks", ValueType.UINT32, [b.index for b in head.blocks], order),
    ]
    n_vocab = n_tokens(donor)
    if n_vocab and 0 < n_vocab < 2**31:
        keys.append(make_key("mtpgraft.vocab_size", ValueType.UINT32, n_vocab, order))
    return (*keys, *fingerprint_keys(donor))


def donor_label(donor: GGUFModel) -> str:
    """What to call a donor in the keys of what was made from it: its own name, or its file's, never a path.

    A head file passes on what it was itself made from.
    """
    origin = donor.text("mtpgraft.donor")
    if origin is not None and donor.key("mtpgraft.kind") is not None:
        return origin
    if donor.name.startswith("hf:"):
        return donor.name
    file_name = donor.name.replace("\\", "/").rsplit("/", 1)[-1]
    file_name = file_name.encode("utf-8", "backslashreplace").decode()  # a key's value is UTF-8; a name need not be
    own = donor.text("general.name")
    return f"{own} ({file_name})" if own else file_name


def _sidecar_roots(donor: GGUFModel, head: Head, wanted_type: str) -> tuple[tuple[OutTensor, ...], list[str]]:
    spec = head.spec
    if spec is not None and not spec.sidecar:
        raise RefusedError(
            f"llama.cpp cannot load a sidecar of {head.architecture}",
            file=donor.name,
            hint="extract --as donor and graft it instead",
        )
    required = spec.sidecar_roots if spec else ("token_embd.weight", "output_norm.weight")
    optional = spec.sidecar_optional_roots if spec else ("output.weight",)
    missing = [name for name in required if name not in donor.tensor_by_name]
    if missing:
        raise RefusedError(
            "a sidecar needs tensors that this donor does not have",
            file=donor.name,
            where=f"tensor {missing[0]}",
            hint="take the sidecar from a full model, or use --as donor",
        )
    chosen = set(required) | set(optional)
    tensors: list[OutTensor] = []
    warnings: list[str] = []
    for tensor in donor.tensors:
        if tensor.name in chosen:
            out, warning = retyped(
                donor, tensor, tensor.name, wanted_type, tensor.name, donor.alignment, donor.byte_order, None
            )
            tensors.append(out)
            warnings += [warning] if warning else []
    return tuple(tensors), warnings
