"""The `fixture`, `heads` and shape units: the models that are measured."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpu_bench.state import LeftOutError, Unit, UnitFailedError, Work, run_program
from gpu_bench.toolchain import Tools
from mtpgraft import surgery
from mtpgraft.head import find_head
from mtpgraft.open import open_model
from mtpgraft.plan import GraftOptions

SCRIPTS = Path(__file__).resolve().parent.parent
BUNDLED = SCRIPTS.parent / "fixtures" / "trained"

BASES = ("Q4_K_M", "Q3_K_M", "Q2_K")
OWN_HEADS = ("q8_0", "q4_0")
"""Head types that mtpgraft makes."""
LLAMA_HEADS = ("q2_k",)
"""Head types that llama-quantize makes: of k-quants mtpgraft keeps the bytes and has no quantizer."""

_TRAINER_NEEDS = ("torch", "transformers", "tokenizers", "safetensors")


@dataclass(frozen=True, slots=True)
class Fixture:
    """A trained model: the donor with its head at BF16, and bases without one. origin: for the report."""

    folder: Path
    origin: str

    @property
    def donor(self) -> Path:
        return self.folder / "donor-bf16.gguf"

    def base(self, quant: str) -> Path:
        return self.folder / f"base-{quant}.gguf"


def trained_folder(work: Work) -> Path:
    return work.models / "trained"


def fixture_of(work: Work, minutes: float) -> Fixture:
    """The larger model where it was trained, else the bundled one."""
    folder = trained_folder(work)
    if (folder / "manifest.json").is_file():
        return Fixture(folder, f"trained on this GPU for {minutes:g} minutes (scripts/train_fixture.py --config large)")
    return Fixture(BUNDLED, "the bundled one of 2.9 M parameters (fixtures/trained)")


def fixture_units(work: Work, minutes: float, tools: Tools, device: str) -> list[Unit]:
    """Training and conversion; nothing to do for the bundled model."""
    if not minutes:
        return []
    run = work.models / "train"
    folder = trained_folder(work)

    def train() -> None:
        lacking = [name for name in _TRAINER_NEEDS if importlib.util.find_spec(name) is None]
        if lacking:
            raise LeftOutError(f"{', '.join(lacking)} not installed: the bundled model is measured instead")
        command = [sys.executable, str(SCRIPTS / "train_fixture.py"), "--out", str(run), "--config", "large"]
        command += ["--minutes", f"{minutes:g}", "--device", device, "--checkpoint-seconds", "30"]
        run_program(command, work, "train")

    def convert() -> None:
        if not (run / "hf" / "model.safetensors").is_file():
            raise LeftOutError("there is no trained checkpoint: the bundled model is measured instead")
        if tools.quantize is None or tools.source is None:
            raise UnitFailedError("the conversion needs llama-quantize and llama.cpp's source (the build step)")
        command = [sys.executable, str(SCRIPTS / "build_fixtures.py"), "--checkpoint", str(run / "hf")]
        command += ["--out", str(folder), "--work", str(work.folder / "build" / "fixtures"), "--allow-large"]
        command += ["--llama-src", str(tools.source), "--llama-bin", str(tools.quantize.parent)]
        command += ["--converter-python", sys.executable, "--quants", ",".join(BASES)]
        run_program(command, work, "convert")

    # training goes on from its last checkpoint, so it may start with less time than it takes
    return [
        Unit("train", min(120.0, 60 * minutes), (run / "hf" / "model.safetensors",), train),
        Unit("convert", 60, (folder / "manifest.json",), convert),
    ]


def graft_path(work: Work, base: str, head: str) -> Path:
    return work.models / f"{base}+{head}.gguf"


def head_types(tools: Tools) -> tuple[str, ...]:
    return OWN_HEADS + (LLAMA_HEADS if tools.quantize else ())


def head_units(work: Work, fixture: Fixture, tools: Tools, bases: Sequence[str] = BASES) -> list[Unit]:
    """One graft for each base and head type, verified as every graft is."""

    def donor_for(head: str) -> Path:
        if head in OWN_HEADS:
            return fixture.donor
        donor = work.models / f"donor-{head}.gguf"
        if not donor.is_file():
            _quantize_head(work, fixture.donor, head, tools, donor)
        return donor

    def unit(base: str, head: str) -> Unit:
        out = graft_path(work, base, head)

        def graft() -> None:
            wanted = head if head in OWN_HEADS else "keep"
            surgery.graft(str(fixture.base(base)), str(donor_for(head)), out, GraftOptions(wanted))

        return Unit(f"graft {base}+{head}", 5, (out,), graft)

    return [unit(base, head) for base in bases for head in head_types(tools)]


def _quantize_head(work: Work, donor: Path, head: str, tools: Tools, out: Path) -> None:
    """The donor with its head block in another type, by llama-quantize. Its trunk is Q8_0: only the head is used."""
    with open_model(donor) as model:
        blocks = [block.index for block in find_head(model).blocks]
    part = out.with_name(out.name + ".part")
    command = [str(tools.quantize)]
    for block in blocks:
        command += ["--tensor-type", rf"blk\.{block}\.={head}"]
    run_program([*command, str(donor), str(part), "Q8_0"], work, f"quantize-{head}")
    part.replace(out)


def shape_path(work: Work, shape: str) -> Path:
    return work.models / f"shape-{shape}.gguf"


def shape_model_unit(work: Work, shape: str, seconds: float, arguments: Sequence[str] = ()) -> Unit:
    """scripts/make_shape_model.py writes under its final name only when it is done."""
    out = shape_path(work, shape)

    def make() -> None:
        command = [sys.executable, str(SCRIPTS / "make_shape_model.py"), str(out), "--shape", shape, *arguments]
        run_program(command, work, re.sub(r"\W", "-", f"shape-{shape}"), cwd=SCRIPTS.parent)

    return Unit(f"write the {shape} model", seconds, (out,), make)
