"""How precise must a head be? Acceptance of one head in several types on low-bit bases, side by side in llama.cpp.

python scripts/bench_heads.py --llama-quantize build/bin/llama-quantize --markdown heads.md

Every head is made of the same BF16 donor: plain types by mtpgraft, K-quants by llama-quantize (left out without it). It
runs beside the base as a sidecar, greedily, so nothing but its precision differs between two heads of a table. Prompts
are the first lines of this project's own modules and pages, which the bundled model was not trained on. Acceptance
does not depend on the machine; no time is measured.

The difference from the BF16 head has a 95 % interval by bootstrap over the prompts (2,000 draws, both heads on the
same drawn prompts). An interval with 0 in it tells nothing apart.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mtpgraft.bench.engine import LaunchSpec  # noqa: E402
from mtpgraft.bench.engines.find import find_engine  # noqa: E402
from mtpgraft.bench.heads import made_heads  # noqa: E402
from mtpgraft.bench.metrics import ArmResult  # noqa: E402
from mtpgraft.bench.prompts import Prompt, Suite  # noqa: E402
from mtpgraft.bench.protocol import HeadChoice, plan_bench  # noqa: E402
from mtpgraft.bench.result import BenchResult  # noqa: E402
from mtpgraft.bench.run import execute  # noqa: E402
from mtpgraft.head import find_head  # noqa: E402
from mtpgraft.open import open_model  # noqa: E402

TRAINED = ROOT / "fixtures" / "trained"
PLAIN = ("bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
BY_LLAMA_QUANTIZE = ("q6_k", "q5_k", "q4_k", "q3_k", "q2_k")
PROMPT_CHARS = 240
DRAWS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--donor", type=Path, default=TRAINED / "donor-bf16.gguf")
    parser.add_argument("--base", type=Path, nargs="+", default=sorted(TRAINED.glob("base-*.gguf")))
    parser.add_argument("--llama-quantize", type=Path)
    parser.add_argument("--engine", default="embedded")
    parser.add_argument("--n-max", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--n-predict", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    suite = own_suite(args.prompts, args.n_predict)
    lines: list[str] = []
    with TemporaryDirectory() as folder:
        donors = dict.fromkeys(PLAIN, args.donor)
        if args.llama_quantize:
            donors |= {
                name: quantized(args.llama_quantize, args.donor, name, Path(folder)) for name in BY_LLAMA_QUANTIZE
            }
        for base in args.base:
            result = measure(base, donors, suite, args.engine, args.n_max)
            lines += table(base, result, args.n_max)
            print("\n".join(lines[-3 - len(donors) :]), flush=True)
    n_code = sum(prompt.category == "code" for prompt in suite.prompts)
    setup = (
        f"{args.donor.name}, {len(suite.prompts)} prompts ({n_code} code), {args.n_predict} tokens each, greedy; "
        f"{result.engine.name} {result.engine.build}; suite {suite.hash[:12]}"
    )
    if args.markdown:
        args.markdown.write_text("\n".join([setup, *lines]) + "\n", encoding="utf-8")


def own_suite(n_prompts: int, n_predict: int) -> Suite:
    """Two thirds code, one third prose."""
    code = sorted((ROOT / "mtpgraft").rglob("*.py"))
    prose = [part for page in sorted((ROOT / "docs").glob("*.md")) for part in paragraphs(page)]
    code_texts = [text for path in code if len(text := path.read_text(encoding="utf-8")) > 4 * PROMPT_CHARS]
    n_prose = n_prompts // 3
    prompts = [
        Prompt(f"code-{i}", "code", text[:PROMPT_CHARS])
        for i, text in enumerate(spread(code_texts, n_prompts - n_prose))
    ]
    prompts += [Prompt(f"prose-{i}", "prose", text[:PROMPT_CHARS]) for i, text in enumerate(spread(prose, n_prose))]
    return Suite("own-text", "completion", n_predict, tuple(prompts))


def paragraphs(page: Path) -> list[str]:
    """Plain paragraphs long enough to be a prompt."""
    parts = page.read_text(encoding="utf-8").split("\n\n")
    return [part for part in parts if len(part) > PROMPT_CHARS and part[0].isalpha()]


def spread(items: Sequence[str], n: int) -> list[str]:
    """n of the items, evenly over all of them."""
    return [items[i * len(items) // n] for i in range(min(n, len(items)))]


def quantized(program: Path, donor: Path, name: str, folder: Path) -> Path:
    """The donor with its head block in a K-quant. Its trunk is not used."""
    with open_model(donor) as model:
        blocks = [block.index for block in find_head(model).blocks]
    overrides = [word for block in blocks for word in ("--tensor-type", rf"blk\.{block}\.={name}")]
    out = folder / f"{name}.gguf"
    subprocess.run([program, *overrides, donor, out, "Q8_0"], check=True, capture_output=True)
    return out


def measure(base: Path, donors: dict[str, Path], suite: Suite, engine: str, n_max: Sequence[int]) -> BenchResult:
    with ExitStack() as stack:
        choices = []
        for name, donor in donors.items():
            wanted = name if name in PLAIN else "keep"
            heads = stack.enter_context(made_heads(base, types=(wanted,), donor=str(donor)))
            choices.append(HeadChoice(name, heads.choices[0].sidecar))
        launch = LaunchSpec(base, n_ctx=512, n_threads=1)
        return execute(plan_bench(launch, suite, heads=choices, n_max=n_max, repeats=1), [find_engine(engine)])


def table(base: Path, result: BenchResult, n_max: Sequence[int]) -> list[str]:
    heads = list(dict.fromkeys(arm.arm.head for arm in result.on))
    arms = {(arm.arm.head, arm.arm.n_max): arm for arm in result.on}
    lines = [
        "",
        f"| head on {base.stem} | " + " | ".join(f"n={n}" for n in n_max) + " |",
        "|---" * (1 + len(n_max)) + "|",
    ]
    for head in heads:
        cells = [cell(arms[head, n], arms[heads[0], n], is_first=head == heads[0]) for n in n_max]
        lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return lines


def cell(arm: ArmResult, reference: ArmResult, *, is_first: bool) -> str:
    """Acceptance, and the interval of its difference from the reference."""
    ours, theirs = counts(arm), counts(reference)
    acceptance = ours[:, 0].sum() / ours[:, 1].sum()
    if is_first:
        return f"{acceptance:.3f}"
    draws = np.random.default_rng(1).integers(0, len(ours), (DRAWS, len(ours)))
    rates = [side[draws].sum(axis=1) for side in (ours, theirs)]
    low, high = np.percentile(rates[0][:, 0] / rates[0][:, 1] - rates[1][:, 0] / rates[1][:, 1], (2.5, 97.5))
    return f"{acceptance:.3f} ({low:+.3f} to {high:+.3f})"


def counts(arm: ArmResult) -> np.ndarray:
    """Accepted and drafted tokens, prompt after prompt: (prompts, 2)."""
    return np.array([(sample.result.draft_n_accepted, sample.result.draft_n) for sample in arm.samples], dtype=float)


if __name__ == "__main__":
    main()
