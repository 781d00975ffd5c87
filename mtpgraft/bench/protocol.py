"""What a bench runs, and in which order: pure values, made before any engine starts.

The order is the measurement. Every arm is visited once per repeat and no arm runs beside another, so they never share
the machine; an engine is started for each visit (llama.cpp fixes its drafting at start-up, and two large models
do not fit side by side), and each start throws one warm-up request away. Repeats run the arms there and back
(3 2 1 off, off 1 2 3, 3 2 1 off), so a machine that slows down or speeds up steadily favours none. The deepest
MTP arm goes first: a model that cannot draft is found out before anything is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtpgraft.bench.engine import CompletionRequest, DraftSpec, LaunchSpec, Scalar
from mtpgraft.bench.prompts import QUICK, Prompt, Suite
from mtpgraft.errors import UsageError

# Enough to touch every weight and to make the engine build and reserve its graphs, drafting included.
WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Arm:
    """One setting that is measured. name: `off`, `n=2`, `n=2 p>=0.75`."""

    name: str
    launch: LaunchSpec

    @property
    def n_max(self) -> int:
        """0 for the off arm."""
        return self.launch.draft.n_max if self.launch.draft else 0

    @property
    def p_min(self) -> float:
        return self.launch.draft.p_min if self.launch.draft else 0.0


@dataclass(frozen=True, slots=True)
class Visit:
    """One start of one arm's engine: a warm-up, then every prompt once. repeat: from 0."""

    arm: Arm
    repeat: int


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """arms: `off` first, then in the order asked for, which is also the order of the report."""

    arms: tuple[Arm, ...]
    suite: Suite
    n_predict: int
    repeats: int
    seed: int

    @property
    def visits(self) -> tuple[Visit, ...]:
        """In the order of running."""
        there, back = self.arms[::-1], self.arms
        return tuple(
            Visit(arm, repeat) for repeat in range(self.repeats) for arm in (there if repeat % 2 == 0 else back)
        )

    @property
    def n_samples(self) -> int:
        return len(self.arms) * self.repeats * len(self.suite.prompts)

    def request(self, prompt: Prompt) -> CompletionRequest:
        return CompletionRequest(prompt.text, self.n_predict, seed=self.seed)

    @property
    def warm_up(self) -> CompletionRequest:
        first = self.suite.prompts[0]
        return CompletionRequest(first.text, min(WARM_UP_TOKENS, self.n_predict), seed=self.seed)


def plan_bench(
    model: Path,
    *,
    sidecar: Path | None = None,
    n_max: Sequence[int] = (1, 2, 3),
    p_min: Sequence[float] = (0.0,),
    repeats: int = 3,
    suite: Suite = QUICK,
    n_predict: int | None = None,
    n_ctx: int = 4096,
    n_threads: int | None = None,
    seed: int = 1,
    extra: tuple[tuple[str, Scalar], ...] = (),
) -> BenchPlan:
    """The off arm and one arm for each n_max x p_min. Raises UsageError for numbers that make no measurement."""
    _check(bool(n_max) and min(n_max) >= 1, "n_max", "one or more numbers from 1", n_max)
    _check(bool(p_min) and min(p_min) >= 0 and max(p_min) < 1, "p_min", "numbers from 0 to below 1", p_min)
    _check(repeats >= 1, "repeats", "at least 1", repeats)
    tokens = suite.n_predict if n_predict is None else n_predict
    _check(tokens >= 8, "n_predict", "at least 8 tokens: fewer time nothing but the start", tokens)
    _check(tokens < n_ctx, "n_ctx", f"more than n_predict ({tokens})", n_ctx)

    def arm(name: str, draft: DraftSpec | None) -> Arm:
        return Arm(name, LaunchSpec(model, n_ctx=n_ctx, draft=draft, n_threads=n_threads, extra=extra))

    on = (
        arm(f"n={n}" if p == 0 else f"n={n} p>={p:g}", DraftSpec(n, p, sidecar))
        for n in dict.fromkeys(n_max)
        for p in dict.fromkeys(p_min)
    )
    return BenchPlan((arm("off", None), *on), suite, tokens, repeats, seed)


def _check(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise UsageError(f"{name} makes no measurement", expected=expected, found=found)
