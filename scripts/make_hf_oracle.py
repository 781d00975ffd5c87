#!/usr/bin/env python3
"""Make tests/data/hf_oracle.json: what llama.cpp's converter makes of checkpoints stored as F16, F32 and FP8.

    python scripts/make_hf_oracle.py --llama-src SRC --converter-python PYTHON [VARIANT...]

Each variant of tests/hf_variants.py is built from fixtures/tiny and converted with --mtp at F32, BF16 and Q8_0; type,
shape and sha256 of the head's tensors are kept. The tiny checkpoints themselves have theirs in
fixtures/tiny/*/head-types.json (build_tiny_fixtures.py, which also says where the converter comes from).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from hf_variants import VARIANTS, Variant, build_variant  # noqa: E402
from tiny.compare import summarize  # noqa: E402

TINY = ROOT / "fixtures" / "tiny"
TARGET = ROOT / "tests" / "data" / "hf_oracle.json"
OUTTYPES = ("f32", "bf16", "q8_0")


def converted(variant: Variant, entry: str, pre: str, source: Path, python: Path) -> dict[str, dict[str, object]]:
    """Per outtype: the head's tensors as the converter writes them."""
    result: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "hf"
        build_variant(variant, TINY, folder)
        for outtype in OUTTYPES:
            out = Path(scratch) / f"{outtype}.gguf"
            command = [str(python), str(ROOT / "scripts" / entry), str(source), pre, str(folder)]
            command += ["--outtype", outtype, "--mtp", "--outfile", str(out)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{variant.name}: {done.stderr[-2000:]}")
            tensors = summarize(out).tensors
            head = [name for name in tensors if name.startswith("blk.")]
            result[outtype] = {name: tensors[name].as_json() for name in head}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", nargs="*", help="names (default: all)")
    parser.add_argument("--llama-src", type=Path, required=True, help="llama.cpp's source")
    parser.add_argument("--converter-python", type=Path, required=True, help="python with torch and transformers")
    args = parser.parse_args()
    commands = json.loads((TINY / "manifest.json").read_text(encoding="utf-8"))["models"]
    oracle = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.is_file() and args.variant else {}
    for variant in VARIANTS:
        if args.variant and variant.name not in args.variant:
            continue
        # The fixture's own command names the entry script and the pre-tokenizer.
        words = commands[variant.source]["commands"]["whole"].split()
        entry, pre = words[1].removeprefix("scripts/"), words[3]
        oracle[variant.name] = converted(
            variant, entry, pre, args.llama_src.absolute(), args.converter_python.absolute()
        )
        print(variant.name, file=sys.stderr)
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(json.dumps(oracle, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
