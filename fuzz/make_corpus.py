"""Makes fuzz/corpus: small GGUF files that between them reach every branch of the header reader."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.ggufbuild import ARR, BOOL, F32, I32, STR, U8, U32, U64, Built, f32_tensor, llama_like, unknown_arch_donor  # noqa: E402


def seeds() -> dict[str, bytes]:
    """name -> bytes."""
    qwen = llama_like("qwen35", 1, 8)
    head = llama_like("qwen35", 2, 8)
    head.keys.append(("qwen35.nextn_predict_layers", U32, 1))
    for local in ("nextn.eh_proj.weight", "nextn.enorm.weight", "nextn.hnorm.weight", "attn_q.weight"):
        head.tensors.append(f32_tensor(f"blk.1.{local}", (8, 2)))
    every = Built(
        [
            ("general.architecture", STR, "llama"),
            ("llama.block_count", U32, 0),
            ("general.alignment", U32, 64),
            ("a.bool", BOOL, True),
            ("a.u64", U64, 2**63),
            ("a.f32", F32, 0.5),
            ("a.strings", ARR, (STR, ["x", "", "yz"])),
            ("a.numbers", ARR, (I32, [1, 2, 3])),
            ("a.bytes", ARR, (U8, [])),
        ],
        alignment=64,
    )
    undo = unknown_arch_donor(1, 8)
    undo.keys += [
        ("mtpgraft.undo.added", ARR, (STR, ["newarch.nextn_predict_layers"])),
        ("mtpgraft.undo.newarch.block_count", U32, 1),
        ("mtpgraft.undo.file_size", U64, 1000),
    ]
    return {
        "base": qwen.bytes(),
        "head": head.bytes(),
        "unknown-arch": unknown_arch_donor(1, 8).bytes(),
        "big-endian": llama_like("qwen35", 1, 8, order=">").bytes(),
        "version-2": llama_like("qwen35", 1, 8, version=2).bytes(),
        "gap": llama_like("qwen35", 1, 8, gap=32).bytes(),
        "every-type": every.bytes(),
        "undo": undo.bytes(),
        "empty": b"",
        "no-keys": b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
    }


if __name__ == "__main__":
    folder = ROOT / "fuzz" / "corpus"
    folder.mkdir(exist_ok=True)
    for name, data in seeds().items():
        (folder / name).write_bytes(data)
