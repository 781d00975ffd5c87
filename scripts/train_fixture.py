#!/usr/bin/env python3
"""Train a small Qwen3.5 model with its MTP block, from scratch, on the Python standard library's sources.

    python scripts/train_fixture.py --out build/trained                    # half an hour on 2 CPU cores
    python scripts/train_fixture.py --out build/trained --config large     # about 99 M parameters, for a GPU
    python scripts/train_fixture.py --out build/trained --export-only      # HF folder of the last checkpoint

The run stops when its wall-clock budget is spent (the learning rate follows the clock, too) and leaves
OUT/hf, a Hugging Face folder for scripts/build_fixtures.py. Started again with the same OUT it goes on from
the last checkpoint. Batches are seeded by step; the number of steps, and so the weights, depend on the
machine's speed unless --steps fixes it.

Needs torch, transformers >= 5.2 (Qwen3_5 classes), tokenizers and safetensors.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from fixture_model.checkpoint import STATE_FILE, Evaluation, TrainingRecord, export_hf, save_state
from fixture_model.corpus import END_OF_TEXT, Corpus, encode, load_corpus, train_tokenizer
from fixture_model.model import PRESETS, Preset, TrainedModel, make_config
from tokenizers import Tokenizer

MTP_LOSS_WEIGHT = 0.5
WARMUP_FRACTION = 0.02
DECAY_FRACTION = 0.5
EVALUATION_SEED = 10**9


@dataclass(slots=True)
class Progress:
    """The changing part of a run, as the checkpoint keeps it."""

    step: int = 0
    elapsed: float = 0.0
    history: list[Evaluation] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Options:
    """One run. `n_steps` of None means: until `minutes` are spent."""

    out: Path
    preset_name: str
    minutes: float
    n_steps: int | None
    seed: int
    device: torch.device
    n_threads: int
    checkpoint_seconds: float
    evaluation_seconds: float

    @property
    def preset(self) -> Preset:
        return PRESETS[self.preset_name]

    def spent(self, progress: Progress) -> float:
        """The share of the budget that is used up, 0 to 1."""
        if self.n_steps is not None:
            return progress.step / self.n_steps
        return progress.elapsed / (self.minutes * 60)


def learning_rate_factor(done: float) -> float:
    """Warm up, hold, then fall linearly to zero. `done` is the spent share of the budget, 0 to 1."""
    if done < WARMUP_FRACTION:
        return max(done / WARMUP_FRACTION, 0.01)
    return min(1.0, max(0.0, (1.0 - done) / DECAY_FRACTION))


def make_optimizer(model: TrainedModel, learning_rate: float) -> torch.optim.AdamW:
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if parameter.ndim == 2 and "embed_tokens" not in name else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), eps=1e-8)


def draw_batch(tokens: np.ndarray, preset: Preset, seed: int, step: int, device: torch.device) -> torch.Tensor:
    """Random windows of the token stream: int64 [batch_size, seq_len], a function of (seed, step) alone."""
    rng = np.random.default_rng((seed, step))
    starts = rng.integers(0, len(tokens) - preset.seq_len, preset.batch_size)
    windows = np.stack([tokens[start : start + preset.seq_len] for start in starts])
    return torch.from_numpy(windows.astype(np.int64)).to(device)


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16)


@torch.no_grad()
def evaluate(
    model: TrainedModel, held_out: np.ndarray, options: Options, progress: Progress, train_loss: float
) -> Evaluation:
    sums = np.zeros(3)
    n_batches = 6
    for i in range(n_batches):
        ids = draw_batch(held_out, options.preset, options.seed, EVALUATION_SEED + i, options.device)
        with autocast(options.device):
            losses = model(ids)
        sums += [losses.next_token.item(), losses.mtp.item(), losses.mtp_hit_rate.item()]
    trunk, mtp, hit_rate = (round(float(value), 4) for value in sums / n_batches)
    return Evaluation(progress.step, round(progress.elapsed, 1), round(train_loss, 4), trunk, mtp, hit_rate)


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def train(
    model: TrainedModel,
    optimizer: torch.optim.AdamW,
    data: tuple[np.ndarray, np.ndarray],
    options: Options,
    progress: Progress,
) -> None:
    """Train until the budget is spent; `progress` and the checkpoint file follow along."""
    tokens, held_out = data
    preset = options.preset
    clock = time.monotonic() - progress.elapsed
    next_checkpoint = progress.elapsed + options.checkpoint_seconds
    next_evaluation = progress.elapsed + options.evaluation_seconds
    smoothed = math.nan
    while True:
        progress.elapsed = time.monotonic() - clock
        spent = options.spent(progress)
        done = spent >= 1.0
        if done or progress.elapsed >= next_evaluation:
            progress.history.append(evaluate(model, held_out, options, progress, smoothed))
            log(str(progress.history[-1]))
            next_evaluation = progress.elapsed + options.evaluation_seconds
        if done or progress.elapsed >= next_checkpoint:
            save_state(options.out, checkpoint_state(model, optimizer, options, progress))
            next_checkpoint = progress.elapsed + options.checkpoint_seconds
        if done:
            return
        for group in optimizer.param_groups:
            group["lr"] = preset.learning_rate * learning_rate_factor(spent)
        ids = draw_batch(tokens, preset, options.seed, progress.step, options.device)
        with autocast(options.device):
            losses = model(ids)
            loss = losses.next_token + MTP_LOSS_WEIGHT * losses.mtp
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress.step += 1
        smoothed = losses.next_token.item() if math.isnan(smoothed) else smoothed
        smoothed += 0.02 * (losses.next_token.item() - smoothed)
        if progress.step % 50 == 0:
            log(
                f"step {progress.step}  {progress.elapsed:.0f} s  loss {smoothed:.3f}"
                f"  mtp {losses.mtp.item():.3f}  hit {losses.mtp_hit_rate.item():.3f}"
                f"  lr {optimizer.param_groups[0]['lr']:.2e}"
            )


def checkpoint_state(
    model: TrainedModel, optimizer: torch.optim.AdamW, options: Options, progress: Progress
) -> dict[str, object]:
    return {
        "preset": options.preset_name,
        "seed": options.seed,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": progress.step,
        "elapsed": progress.elapsed,
        "history": [tuple(getattr(e, name) for name in Evaluation.__slots__) for e in progress.history],
    }


def resume(path: Path, model: TrainedModel, optimizer: torch.optim.AdamW, options: Options) -> Progress:
    if not path.is_file():
        return Progress()
    state = torch.load(path, map_location=options.device, weights_only=True)
    if (state["preset"], state["seed"]) != (options.preset_name, options.seed):
        kind = f"--config {state['preset']} --seed {state['seed']}"
        raise SystemExit(f"{path} is of {kind}: choose another --out")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    log(f"resuming at step {state['step']}, {state['elapsed']:.0f} s")
    return Progress(state["step"], state["elapsed"], [Evaluation(*entry) for entry in state["history"]])


def make_record(
    options: Options, progress: Progress, model: TrainedModel, corpus: Corpus, n_tokens: int
) -> TrainingRecord:
    budget = f"--minutes {options.minutes:g}" if options.n_steps is None else f"--steps {options.n_steps}"
    arguments = f"--out build/trained --config {options.preset_name} {budget} --seed {options.seed}"
    return TrainingRecord(
        command=f"python scripts/train_fixture.py {arguments}",
        preset=options.preset_name,
        seed=options.seed,
        n_parameters=sum(p.numel() for p in model.parameters()),
        n_steps=progress.step,
        n_tokens_seen=progress.step * options.preset.batch_size * options.preset.seq_len,
        elapsed_seconds=round(progress.elapsed, 1),
        corpus_sha256=corpus.sha256,
        corpus_n_chars=corpus.n_chars,
        corpus_n_tokens=n_tokens,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        device=options.device.type,
        history=tuple(progress.history),
    )


def load_tokenizer(path: Path, corpus: Corpus, vocab_size: int) -> Tokenizer:
    """The run's tokenizer; kept in a file because two tokenizers releases need not merge alike."""
    if path.is_file():
        return Tokenizer.from_file(str(path))
    tokenizer = train_tokenizer(corpus, vocab_size)
    tokenizer.save(str(path))
    return tokenizer


def parse_args() -> tuple[Options, bool]:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="run folder: checkpoint, tokenizer, hf/")
    add("--config", choices=sorted(PRESETS), default="small", help="model size (default small)")
    add("--minutes", type=float, default=30.0, help="wall-clock budget of training (default 30)")
    add("--steps", type=int, help="train exactly this many steps instead of --minutes")
    add("--seed", type=int, default=20261121)
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--threads", type=int, default=2, help="CPU threads (default 2)")
    add("--checkpoint-seconds", type=float, default=120.0)
    add("--eval-seconds", type=float, default=120.0)
    add("--export-only", action="store_true", help="write OUT/hf from the last checkpoint and stop")
    args = parser.parse_args()
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    options = Options(
        out=args.out,
        preset_name=args.config,
        minutes=args.minutes,
        n_steps=args.steps,
        seed=args.seed,
        device=torch.device(device),
        n_threads=args.threads,
        checkpoint_seconds=args.checkpoint_seconds,
        evaluation_seconds=args.eval_seconds,
    )
    return options, args.export_only


def main() -> None:
    options, export_only = parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.n_threads)
    torch.manual_seed(options.seed)

    corpus = load_corpus(options.seed, options.preset.with_tests)
    tokenizer = load_tokenizer(options.out / "tokenizer.json", corpus, options.preset.vocab_size)
    data = encode(corpus, tokenizer)
    n_tokens = len(data[0]) + len(data[1])
    log(f"corpus: {len(corpus.documents)} documents, {corpus.n_chars} characters, {n_tokens} tokens")

    config = make_config(options.preset, tokenizer.token_to_id(END_OF_TEXT))
    model = TrainedModel(config).to(options.device)
    optimizer = make_optimizer(model, options.preset.learning_rate)
    progress = resume(options.out / STATE_FILE, model, optimizer, options)
    log(f"model: {sum(p.numel() for p in model.parameters())} parameters on {options.device}")
    if not export_only:
        train(model, optimizer, data, options, progress)
    export_hf(options.out / "hf", model, tokenizer, make_record(options, progress, model, corpus, n_tokens))
    log(f"wrote {options.out / 'hf'}")


if __name__ == "__main__":
    main()
