#!/usr/bin/env python3
"""Make fixtures/tiny: random tiny models of every MTP architecture, converted by llama.cpp's own converter.

    python scripts/build_tiny_fixtures.py --out fixtures/tiny [ARCH...]

Per architecture: a Hugging Face checkpoint (make_tiny_hf.py), converted at BF16 three ways: whole, --no-mtp,
--mtp. They are an oracle: a head from the first grafted onto the second must give the first again, and a
sidecar must equal the third. head-types.json holds the hashes of the head's tensors at F32 and Q8_0.
Where the converter refuses --no-mtp, the base is the conversion of the same checkpoint without its head.
Each result is loaded in llama.cpp (xllamacpp) and drafts, or the manifest says why not.

Needs numpy, gguf and xllamacpp here; llama.cpp's source and the converter's environment are fetched into
--work as build_fixtures.py does, unless --llama-src and --converter-python are given. ARCH... builds only
those and leaves the rest of the manifest.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fixture_model.toolchain import (
    LLAMA_BUILD,
    SDIST_REQUIREMENT,
    SDIST_SHA256,
    fetch_source,
    make_converter_env,
    sha256_of,
)
from make_tiny_hf import select, write_checkpoint
from tiny.checkpoint import Json, write_json
from tiny.compare import key_differences, summarize, unequal_tensors
from tiny.registry import MODELS, NOT_BUILT
from tiny.shapes import TinyModel

HERE = Path(__file__).parent
CONVERT_ENTRY = "fixture_model/convert_entry.py"
CONVERT_RAW = "tiny/convert_raw.py"
PROBE = HERE / "tiny" / "probe.py"
# BF16 is in the GGUFs themselves.
HEAD_TYPES = ("f32", "q8_0")
PROBE_SECONDS = 120

# llama.cpp's log lines begin with a time and a level: "0.00.018.146 E llama_init_from_model: failed to ...".
_LOG_PREFIX = re.compile(r"^[\d.]+ [A-Z] +(srv +)?")
_TELLING = re.compile(r"^[\d.]+ E |assert|abort", re.IGNORECASE)


class ConversionError(Exception):
    """The converter refused; the message is its last line."""


@dataclass(frozen=True, slots=True)
class Converter:
    """llama.cpp's convert_hf_to_gguf.py."""

    python: Path
    source: Path

    def run(self, folder: Path, model: TinyModel, tail: list[str]) -> str:
        """Convert in `folder` -> the command as a reader may repeat it. Raises ConversionError."""
        entry = CONVERT_RAW if model.raw_config else CONVERT_ENTRY
        command = [str(self.python), str((HERE / entry).resolve()), str(self.source), model.pre, *tail]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise ConversionError(lines[-1] if lines else f"exit code {done.returncode}")
        return f"python scripts/{entry} $LLAMA_SRC {model.pre} {shlex.join(tail)}"


def probe(folder: Path, model: str, *options: str) -> dict[str, Json]:
    """Run probe.py in a process of its own -> its result, or {"error": ...} with llama.cpp's last words."""
    command = [sys.executable, str(PROBE.resolve()), model, *options]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {PROBE_SECONDS} s"}
    for line in done.stdout.splitlines():
        if line.startswith('{"draft_n"'):
            result: dict[str, Json] = json.loads(line)
            return result
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    telling = [_LOG_PREFIX.sub("", line) for line in lines if _TELLING.search(line)]
    if done.returncode < 0:
        telling.insert(0, f"killed by {signal.Signals(-done.returncode).name}")
    return {"error": " | ".join(dict.fromkeys(telling[:6])) or "no message", "exit_code": done.returncode}


class ModelBuilder:
    """Builds one architecture's folder and its entry in the manifest."""

    def __init__(self, model: TinyModel, folder: Path, converter: Converter) -> None:
        self._model = model
        self._folder = folder
        self._converter = converter
        self._commands: dict[str, str] = {}
        self._refusals: dict[str, Json] = {}

    def _tail(self, source: str, outfile: str, flags: list[str], outtype: str = "bf16") -> list[str]:
        name = f"tiny-{self._model.name}"
        return [source, "--outtype", outtype, "--model-name", name, *flags, "--outfile", outfile]

    def _convert(self, role: str, flags: list[str], source: str = "hf") -> bool:
        tail = self._tail(source, f"{role}.gguf", flags)
        try:
            self._commands[role] = self._converter.run(self._folder, self._model, tail)
        except ConversionError as error:
            self._refusals[role] = str(error)
            return False
        return True

    def convert_all(self) -> None:
        """Whole, base and head. Raises ConversionError when even the whole model does not convert."""
        if not self._model.sidecar_only and not self._convert("whole", []):
            raise ConversionError(str(self._refusals["whole"]))
        if not self._convert("no-mtp", ["--no-mtp"]) and self._model.headless_config is not None:
            write_checkpoint(self._model, self._folder / "hf-headless", headless=True)
            self._convert("no-mtp", [], source="hf-headless")
            shutil.rmtree(self._folder / "hf-headless")
        self._convert("mtp", ["--mtp"])

    def _write_head_types(self, head: list[str]) -> None:
        """Write head-types.json: the head's tensors as the converter writes them at each of HEAD_TYPES."""
        flags = ["--mtp"] if "mtp" in self._commands else []
        result: dict[str, Json] = {}
        with tempfile.TemporaryDirectory() as scratch:
            for outtype in HEAD_TYPES:
                outfile = Path(scratch) / f"{outtype}.gguf"
                tail = self._tail("hf", str(outfile), flags, outtype)
                self._converter.run(self._folder, self._model, tail)
                tensors = summarize(outfile).tensors
                result[outtype] = {name: tensors[name].as_json() for name in head}
        path = self._folder / "head-types.json"
        path.write_text(json.dumps(result, separators=(",", ":")) + "\n", encoding="utf-8")

    def _probe_all(self) -> dict[str, Json]:
        results: dict[str, Json] = {}
        if "whole" in self._commands:
            results["whole"] = probe(self._folder, "whole.gguf")
            results["whole, MTP off"] = probe(self._folder, "whole.gguf", "--no-mtp")
        if "no-mtp" in self._commands:
            results["no-mtp, MTP off"] = probe(self._folder, "no-mtp.gguf", "--no-mtp")
            if "mtp" in self._commands:
                results["no-mtp with mtp as sidecar"] = probe(self._folder, "no-mtp.gguf", "--draft", "mtp.gguf")
        return results

    def entry(self) -> dict[str, Json]:
        """Probe the results -> the manifest's record of this model."""
        model = self._model
        summaries = {role: summarize(self._folder / f"{role}.gguf") for role in self._commands}
        donor_role = "mtp" if model.sidecar_only else "whole"
        donor = summaries[donor_role]
        head = donor.head_names(model.arch)
        self._write_head_types(head)
        probes = self._probe_all()
        outcome = probes["no-mtp with mtp as sidecar" if model.sidecar_only else "whole"]
        assert isinstance(outcome, dict)
        draft_n = outcome.get("draft_n")
        drafts = isinstance(draft_n, int) and draft_n > 0
        record: dict[str, Json] = {
            "arch": model.arch,
            "upstream_layout": model.upstream,
            "n_head_blocks": model.n_head_blocks,
            "head_hf_prefixes": list(model.head_prefixes),
            "head_tensors": head,
            "n_tensors": {role: len(summary.tensors) for role, summary in summaries.items()},
            "graph_in_b11434": model.has_graph,
            "drafts_in_embedded": drafts,
            "draft_error": None if drafts else outcome.get("error", "loaded, but drafted nothing"),
            "probes": probes,
            "converter_refusals": self._refusals,
            "notes": list(model.notes),
        }
        for role, name in (("no-mtp", "key_differences"), ("mtp", "mtp_key_differences")):
            if role in summaries and role != donor_role:
                record[name] = key_differences(donor, summaries[role], donor_role, role)
                record[f"{role}_tensors_unlike_{donor_role}"] = list(unequal_tensors(summaries[role], donor))
        record["commands"] = {"hf": f"python scripts/make_tiny_hf.py --out .. {model.name}", **self._commands}
        record["files"] = self._files()
        return record

    def _files(self) -> Json:
        """Every file with its size and hash; the GGUFs under their roles, the others under their names."""
        result: dict[str, Json] = {}
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            name = path.relative_to(self._folder).as_posix()
            facts: Json = {
                "path": f"{self._model.name}/{name}",
                "size": path.stat().st_size,
                "sha256": sha256_of(path),
            }
            result[name.removesuffix(".gguf")] = facts
        return result


def build_one(model: TinyModel, out: Path, converter: Converter) -> dict[str, Json]:
    """Build one model in a scratch folder and move it to `out` -> its record. Raises ConversionError."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / model.name
        write_checkpoint(model, folder / "hf")
        builder = ModelBuilder(model, folder, converter)
        builder.convert_all()
        record = builder.entry()
        shutil.rmtree(out / model.name, ignore_errors=True)
        shutil.copytree(folder, out / model.name)
    return record


def write_manifest(out: Path, models: dict[str, Json]) -> None:
    order = [model.name for model in MODELS]
    write_json(
        out / "manifest.json",
        {
            "schema_version": 1,
            "generator": "scripts/build_tiny_fixtures.py",
            "llama_cpp": {
                "build": LLAMA_BUILD,
                "source": f"PyPI {SDIST_REQUIREMENT}",
                "sdist_sha256": SDIST_SHA256,
            },
            "engine": "PyPI xllamacpp 2026.10.11549, CPU",
            "commands_run_in": "fixtures/tiny/<model>, with $LLAMA_SRC llama.cpp's source",
            "licence": "MIT: random weights, made by scripts/make_tiny_hf.py",
            "models": {name: models[name] for name in order if name in models},
            "not_built": NOT_BUILT,
        },
    )


def parse_args() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("arch", nargs="*", help="folder names (default: all)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/llama"), help="downloads and environments")
    parser.add_argument("--llama-src", type=Path, help="llama.cpp's source, with convert_hf_to_gguf.py")
    parser.add_argument("--converter-python", type=Path, help="python with torch, transformers, safetensors")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    source = (args.llama_src or fetch_source(args.work)).absolute()
    # absolute() and not resolve(): a virtual environment's python is a link that must not be followed.
    converter = Converter((args.converter_python or make_converter_env(args.work)).absolute(), source)
    args.out.mkdir(parents=True, exist_ok=True)
    manifest = args.out / "manifest.json"
    models: dict[str, Json] = {}
    if args.arch and manifest.is_file():
        models = json.loads(manifest.read_text(encoding="utf-8"))["models"]
    failed: list[str] = []
    for model in select(args.arch):
        try:
            record = build_one(model, args.out, converter)
        except ConversionError as error:
            failed.append(model.name)
            print(f"{model.name:<18} NOT CONVERTED: {error}", file=sys.stderr)
            continue
        models[model.name] = record
        outcome = record["draft_error"] or "drafts"
        print(f"{model.name:<18} {outcome}", file=sys.stderr)
        write_manifest(args.out, models)
    if failed:
        raise SystemExit(f"not converted: {', '.join(failed)}")


if __name__ == "__main__":
    main()
