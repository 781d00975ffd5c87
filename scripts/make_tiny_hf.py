#!/usr/bin/env python3
"""Write the tiny random-weight Hugging Face checkpoints of scripts/tiny, one folder per architecture.

    python scripts/make_tiny_hf.py --out build/tiny [ARCH...]

Needs numpy only. Two runs give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tiny.checkpoint import TensorSpec, write_json, write_weights
from tiny.registry import MODELS
from tiny.shapes import TinyModel
from tiny.tokenizer import write_tokenizer


def is_head(model: TinyModel, spec: TensorSpec) -> bool:
    return spec.name.startswith(model.head_prefixes)


def write_checkpoint(model: TinyModel, folder: Path, headless: bool = False) -> None:
    """Write config, tokenizer and weights; `headless` leaves the MTP blocks out and says so in the config."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**model.config, **(model.headless_config or {})} if headless else model.config
    tensors = [spec for spec in model.tensors if not (headless and is_head(model, spec))]
    write_json(folder / "config.json", config)
    write_tokenizer(folder, model.specials, model.bos, model.eos, model.vocab_files)
    write_weights(folder, tensors, model.name, model.head_prefixes, model.n_shards)


def select(names: list[str]) -> list[TinyModel]:
    known = {model.name: model for model in MODELS}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in names] if names else list(MODELS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("arch", nargs="*", help="folder names (default: all)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--headless", action="store_true", help="without the MTP blocks, into hf-headless")
    args = parser.parse_args()
    for model in select(args.arch):
        folder = args.out / model.name / ("hf-headless" if args.headless else "hf")
        write_checkpoint(model, folder, args.headless)
        print(folder, file=sys.stderr)


if __name__ == "__main__":
    main()
