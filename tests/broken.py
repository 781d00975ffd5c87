"""Files with every known way of losing a head, each made from a small real model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import TINY
from tests.ggufbuild import ARR, BOOL, U32, Built, f32, f32_tensor, set_key
from tests.test_head import from_file, without

QWEN = TINY / "qwen35"
Maker = Callable[[], bytes]


def whole() -> Built:
    return from_file(QWEN / "whole.gguf")


def headless() -> Built:
    return from_file(QWEN / "no-mtp.gguf")


def undeclared(built: Built) -> Built:
    built.keys = [key for key in built.keys if "nextn_predict" not in key[0]]
    return built


def orphan_behind_the_end() -> Built:
    """The tensors appended to a headless file, no key changed."""
    built = headless()
    built.tensors += [t for t in whole().tensors if t[0].startswith("blk.2.")]
    return built


def not_raised() -> Built:
    return set_key(headless(), "qwen35.nextn_predict_layers", U32, 1)


def reshaped() -> Built:
    built = whole()
    built.tensors = [(n, s[::-1] if "eh_proj" in n else s, k, d) for n, s, k, d in built.tensors]
    return built


def short_array() -> Built:
    return set_key(whole(), "qwen35.attention.recurrent_layers", ARR, (BOOL, [True, False]))


def with_strange_tensor() -> Built:
    built = whole()
    built.tensors.append(f32_tensor("blk.2.nextn.fc_embd.weight", (8,)))
    return built


def with_other_names() -> Built:
    built = headless()
    built.tensors.append(f32_tensor("mtp.fc_embd.weight", (8,)))
    return built


def two_blocks() -> Built:
    built = set_key(set_key(whole(), "qwen35.block_count", U32, 4), "qwen35.nextn_predict_layers", U32, 2)
    set_key(built, "qwen35.attention.recurrent_layers", ARR, (BOOL, [True, False, False, False]))
    more = [(t[0].replace("blk.2.", "blk.3."), *t[1:]) for t in built.tensors if t[0].startswith("blk.2.")]
    built.tensors += more
    return built


def moved() -> Built:
    """The head at blk.3 of a file whose keys put it at blk.2."""
    built = whole()
    built.tensors = [(t[0].replace("blk.2.", "blk.3."), *t[1:]) for t in built.tensors]
    return built


def with_gaps() -> Built:
    built = whole()
    built.gap = 64
    return built


def head_data(change: Callable[[bytes], bytes], part: str) -> Built:
    """The whole model with the data of some head tensors changed."""
    built = whole()
    built.tensors = [
        (n, s, k, change(d)) if n.startswith("blk.2.") and part in n else (n, s, k, d) for n, s, k, d in built.tensors
    ]
    return built


def shifted(built: Built, by: float, first_head_block: int = 2) -> Built:
    """Every head norm plus `by`: what a converter makes that forgets the +1, or adds it twice."""
    import struct

    def moved_by(data: bytes) -> bytes:
        return f32(*(value + by for value in struct.unpack(f"<{len(data) // 4}f", data)))

    at = f"blk.{first_head_block}."
    built.tensors = [
        (n, s, k, moved_by(d)) if n.startswith(at) and n.endswith("norm.weight") else (n, s, k, d)
        for n, s, k, d in built.tensors
    ]
    return built


def low_quant() -> Built:
    """The whole model with one head matrix at Q4_0."""
    built = whole()
    block = b"\x00\x2c" + bytes(range(16))  # scale 1/16, sixteen pairs of nibbles
    built.tensors = [
        (n, s, 2, block * (s[0] * s[1] // 32)) if "nextn.eh_proj" in n else (n, s, k, d) for n, s, k, d in built.tensors
    ]
    return built


def truncated() -> bytes:
    return (QWEN / "whole.gguf").read_bytes()[:-5000]


def corrupt() -> bytes:
    raw = bytearray((QWEN / "whole.gguf").read_bytes())
    raw[4:8] = b"\x63\0\0\0"  # version 99
    return bytes(raw)


BROKEN: dict[str, tuple[str, str, Maker]] = {
    "truncated": ("truncated", "MTP001", truncated),
    "corrupt": ("corrupt", "MTP002", corrupt),
    "gaps": ("corrupt", "MTP004", lambda: with_gaps().bytes()),
    "dropped": ("dropped", "MTP010", lambda: headless().bytes()),
    "declared": ("declared-missing", "MTP011", lambda: without(whole(), "blk.2.").bytes()),
    "not-raised": ("declared-missing", "MTP012", lambda: not_raised().bytes()),
    "orphan": ("orphan", "MTP020", lambda: undeclared(whole()).bytes()),
    "orphan-behind": ("orphan", "MTP020", lambda: orphan_behind_the_end().bytes()),
    "moved": ("partial", "MTP021", lambda: moved().bytes()),
    "no-eh_proj": ("partial", "MTP022", lambda: without(whole(), "nextn.eh_proj").bytes()),
    "no-enorm": ("partial", "MTP022", lambda: without(whole(), "nextn.enorm").bytes()),
    "no-attn_q": ("partial", "MTP022", lambda: without(whole(), "blk.2.attn_q.").bytes()),
    "wrong-shape": ("partial", "MTP023", lambda: reshaped().bytes()),
    "short-array": ("partial", "MTP024", lambda: short_array().bytes()),
    "two-blocks": ("unsupported", "MTP027", lambda: two_blocks().bytes()),
    "strange-tensor": ("partial", "MTP029", lambda: with_strange_tensor().bytes()),
    "other-names": ("unsupported", "MTP030", lambda: with_other_names().bytes()),
}
"""Name -> verdict, rule and bytes of a file that the header gives away."""


def write(folder: Path, name: str) -> Path:
    path = folder / f"{name}.gguf"
    path.write_bytes(BROKEN[name][2]())
    return path
