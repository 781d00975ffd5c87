"""Makes fuzz/corpus (small GGUF files that between them reach every branch of the header reader) and fuzz/readers."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.ggufbuild import (  # noqa: E402
    ARR,
    BOOL,
    F32,
    I32,
    STR,
    U8,
    U16,
    U32,
    U64,
    Built,
    f32_tensor,
    llama_like,
    unknown_arch_donor,
)


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


def reader_seeds() -> dict[str, bytes]:
    """name -> bytes, the first of them the number of the reader in fuzz_readers.py."""
    config = {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "text_config": {"hidden_size": 2, "num_hidden_layers": 1, "mtp_num_hidden_layers": 1, "head_dim": 2,
                        "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 2,
                        "rope_parameters": {"partial_rotary_factor": 0.5}, "layer_types": ["full_attention"]},
    }  # fmt: skip
    names = ("mtp.fc.weight", "mtp.norm.weight", "mtp.layers.0.self_attn.q_proj.weight", "model.norm.weight")
    header: dict[str, object] = {}
    for number, name in enumerate(names):
        shape = [2] if "norm" in name else [2, 2]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [8 * number, 8 * number + 2 * 2 ** len(shape)]}
    header["model.norm.weight"] = {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]}
    header["mtp.norm.weight"] = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}
    raw = json.dumps(header).encode()
    shards = []
    for number in range(2):
        built = llama_like("qwen35", 1, 8)
        split = [("split.no", U16, number), ("split.count", U16, 2), ("split.tensors.count", I32, 4)]
        built.keys = [*(built.keys if number == 0 else []), *split]
        built.tensors = built.tensors[2 * number : 2 * number + 2]
        shards.append(built.bytes())
    about = {"operation": "graft", "old_nbytes": 8, "new_nbytes": 16, "shift": 0, "old_header_nbytes": 4}
    about |= {"new_header_nbytes": 0, "sampled_nbytes": 4, "samples": "00"}
    suite = {"schema_version": 1, "name": "x", "prompts": [{"id": "a", "text": "b", "depth": 9}]}
    suite["filler"] = {"paragraphs": ["{a} {n}"], "words": {"a": ["b"]}}
    result = {"schema_version": 1, "kind": "bench", "arms": [], "engines": [], "suite": {}, "settings": {}, "heads": []}
    tree = {"files": [{"path": "a/b.gguf", "size": 3, "etag": None}]}
    bodies = (
        struct.pack("<Q", len(raw)) + raw + bytes(32),
        b'{"metadata": {}, "weight_map": {"mtp.fc.weight": "model.safetensors"}}',
        json.dumps(config).encode() + b"\0" + raw,
        b"".join(struct.pack("<I", len(shard)) + shard for shard in shards),
        json.dumps(about).encode() + b"\nold!",
        json.dumps(result).encode(),
        json.dumps(suite).encode(),
        b'{"target": "hf:a/b", "results": [{"verdict": "ok", "architecture": "x", "fetched_nbytes": 1}]}\n',
        b"0 10 00000000\n",
        json.dumps(tree).encode(),
        b"bytes 0-9/10",
    )
    return {f"seed-{number:02d}": bytes([number]) + body for number, body in enumerate(bodies)}


if __name__ == "__main__":
    for folder, made in ((ROOT / "fuzz" / "corpus", seeds()), (ROOT / "fuzz" / "readers", reader_seeds())):
        folder.mkdir(exist_ok=True)
        for name, data in made.items():
            (folder / name).write_bytes(data)
