"""What a bench runs, and in which order: pure values, made before any engine starts.

The order is the measurement. Every arm is visited once per repeat and no arm runs beside another, so they never share
the machine; an engine is started for each visit (llama.cpp fixes its drafting at start-up, and two large models
do not fit side by side), and each start throws one warm-up request away. Repeats run the arms there and back
(3 2 1 off, off 1 2 3, 3 2 1 off), so a machine that slows down or speeds up steadily favours none. The deepest
MTP arm goes first: a model that cannot draft is found out before anything is measured. Of several engines, the same
setting runs one after the other (n=2 on a, n=2 on b, n=1 on a, ...): what is compared lies close in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from pathlib import Path

from mtpgraft.bench.engine import CompletionRequest, DraftSpec, LaunchSpec
from mtpgraft.bench.prompts import Prompt, Suite
from mtpgraft.errors import UsageError

# A typo's bound: recurrent states are kept once per drafted token, and llama.cpp aborts at absurd depths.
MAX_DEPTH = 64
# Enough to touch every weight and to make the engine build and reserve its graphs, drafting included.
WARM_UP_TOKENS = 16
# No suite's prompt: llama.cpp drafts a little differently when a prompt comes twice in a row, cache_prompt false or not
# (seen in b11434 and b11549: 15 of 30 accepted, then 14 of 32).
WARM_UP_TEXT = "Name three things that one finds in a kitchen."


@dataclass(frozen=True, slots=True)
class HeadChoice:
    """A head to measure. label: how arms and reports call it, "" when it is the only one.

    sidecar: its file; None: the model's own head.
    """

    label: str = ""
    sidecar: Path | None = None


OWN_HEAD = HeadChoice()


@dataclass(frozen=True, slots=True)
class Arm:
    """One setting that is measured. name: unique in its plan: `off`, `n=2`, `n=2 p>=0.75`, `ik: n=2 [q4_0]`.

    engine: label of the engine, "" if there is only one. head: label of the head, "" if there is only one or none.
    as_it_runs: a server that mtpgraft did not start: whether and how it drafts is its own business, unless
        `launch.draft` says what its requests ask for.
    """

    name: str
    launch: LaunchSpec
    engine: str = ""
    head: str = ""
    as_it_runs: bool = False

    @property
    def is_off(self) -> bool:
        return self.launch.draft is None and not self.as_it_runs

    @property
    def has_known_depth(self) -> bool:
        return self.launch.draft is not None or not self.as_it_runs

    @property
    def n_max(self) -> int:
        """0 for the off arm, and where it is not known."""
        return self.launch.draft.n_max if self.launch.draft else 0

    @property
    def p_min(self) -> float:
        return self.launch.draft.p_min if self.launch.draft else 0.0

    @property
    def is_synthetic(self) -> bool:
        """Acceptance comes from `synth_rates`: its speed is real, its acceptance and its text are not."""
        return bool(self.launch.draft and self.launch.draft.synth_rates)


@dataclass(frozen=True, slots=True)
class Visit:
    """One start of one arm's engine: a warm-up, then every round once. repeat: from 0."""

    arm: Arm
    repeat: int


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """arms: engine after engine, each with `off` first, then in the order asked for; the order of the report.

    engines: labels, ("",) for a single engine. notes: what was asked for and left out, and why.
    """

    arms: tuple[Arm, ...]
    suite: Suite
    n_predict: int
    repeats: int
    seed: int
    engines: tuple[str, ...] = ("",)
    notes: tuple[str, ...] = ()

    @property
    def visits(self) -> tuple[Visit, ...]:
        """In the order of running."""
        by_engine = [[arm for arm in self.arms if arm.engine == engine] for engine in self.engines]
        back = [arm for same_setting in zip_longest(*by_engine) for arm in same_setting if arm is not None]
        there = back[::-1]
        return tuple(
            Visit(arm, repeat) for repeat in range(self.repeats) for arm in (there if repeat % 2 == 0 else back)
        )

    @property
    def n_parallel(self) -> int:
        return self.arms[0].launch.n_parallel

    @property
    def n_ctx(self) -> int:
        """Tokens of context that one request has."""
        return self.arms[0].launch.n_ctx // self.n_parallel

    @property
    def rounds(self) -> tuple[tuple[Prompt, ...], ...]:
        """What is asked at once: `n_parallel` prompts, a slot each. Over all rounds every prompt visits every slot."""
        prompts = self.suite.prompts
        slots = range(self.n_parallel)
        return tuple(tuple(prompts[(first + slot) % len(prompts)] for slot in slots) for first in range(len(prompts)))

    @property
    def n_samples(self) -> int:
        return len(self.arms) * self.repeats * len(self.suite.prompts) * self.n_parallel

    def request(self, prompt: Prompt) -> CompletionRequest:
        return CompletionRequest(prompt.text, self.n_predict, seed=self.seed, shape=self.suite.shape)

    @property
    def warm_up(self) -> CompletionRequest:
        return CompletionRequest(
            WARM_UP_TEXT, min(WARM_UP_TOKENS, self.n_predict), seed=self.seed, shape=self.suite.shape
        )


def plan_bench(
    launch: LaunchSpec,
    suite: Suite,
    *,
    heads: Sequence[HeadChoice] = (OWN_HEAD,),
    n_max: Sequence[int] = (1, 2, 3),
    p_min: Sequence[float] = (0.0,),
    synth_rates: Sequence[float] = (),
    repeats: int = 3,
    n_predict: int | None = None,
    seed: int = 1,
    engines: Sequence[str] = ("",),
    fixed: AbstractSet[str] = frozenset(),
    by_request: AbstractSet[str] = frozenset(),
) -> BenchPlan:
    """For each engine the off arm, and one arm for each head x n_max x p_min.

    launch: what all arms have in common; its `draft` is set here, and `n_ctx` is of all its slots together.
    synth_rates: makes all MTP arms synthetic; an arm takes the first n_max of them.
    engines: a label for each; fixed: those of running servers, which are measured as they run; by_request: of these,
        the ones that draft as a request says, to be measured at each n_max x p_min.
    Prompts of a depth that cannot fit are left out, with a note. Raises UsageError for numbers that measure nothing.
    """
    deep_enough = bool(n_max) and min(n_max) >= 1 and max(n_max) <= MAX_DEPTH
    _check(deep_enough, "n_max", f"one or more numbers from 1 to {MAX_DEPTH}", tuple(n_max))
    _check(bool(p_min) and min(p_min) >= 0 and max(p_min) < 1, "p_min", "numbers from 0 to below 1", p_min)
    _check(repeats >= 1, "repeats", "at least 1", repeats)
    _check(launch.n_parallel >= 1, "n_parallel", "at least 1", launch.n_parallel)
    _check_rates(synth_rates, max(n_max))
    tokens = suite.n_predict if n_predict is None else n_predict
    _check(tokens >= 8, "n_predict", "at least 8 tokens: fewer time nothing but the start", tokens)
    n_ctx = launch.n_ctx // launch.n_parallel
    _check(launch.n_ctx < 2**31, "n_ctx", "fewer than 2^31 tokens in all slots, which llama.cpp can count", n_ctx)
    _check(tokens < n_ctx, "n_ctx", f"more than n_predict ({tokens}) per slot", n_ctx)
    for name, labels in (("engines", engines), ("heads", [head.label for head in heads])):
        _check(bool(labels) and len(set(labels)) == len(labels), name, "one or more different labels", labels)

    suite, notes = _fitting(suite, tokens, n_ctx)
    settings = [
        (head, DraftSpec(n, p, head.sidecar, tuple(synth_rates[:n])))
        for head in heads
        for n in dict.fromkeys(n_max)
        for p in dict.fromkeys(p_min)
    ]
    arms: list[Arm] = []
    for engine in engines:
        prefix = f"{engine}: " if engine else ""
        bare = replace(launch, draft=None)
        if engine in by_request:
            drafts = [DraftSpec(n, p) for n in dict.fromkeys(n_max) for p in dict.fromkeys(p_min)]
            arms += (
                Arm(prefix + _setting("", draft), replace(launch, draft=draft), engine, as_it_runs=True)
                for draft in drafts
            )
            notes.append(f"{prefix}the running server is told with each request how to draft: MTP off needs a restart")
            continue
        if engine in fixed:
            arms.append(Arm(f"{prefix}as it runs", bare, engine, as_it_runs=True))
            notes.append(f"{prefix}a running server is measured as it runs: MTP off and other settings need a restart")
            continue
        arms.append(Arm(f"{prefix}off", bare, engine))
        arms += (
            Arm(prefix + _setting(head.label, draft), replace(launch, draft=draft), engine, head.label)
            for head, draft in settings
        )
    return BenchPlan(tuple(arms), suite, tokens, repeats, seed, tuple(engines), tuple(notes))


def _setting(head: str, draft: DraftSpec) -> str:
    words = [f"n={draft.n_max}"]
    words += [f"p>={draft.p_min:g}"] if draft.p_min else []
    words += [f"[{head}]"] if head else []
    words += ["synthetic"] if draft.synth_rates else []
    return " ".join(words)


def _fitting(suite: Suite, n_predict: int, n_ctx: int) -> tuple[Suite, list[str]]:
    """Without the prompts whose stated depth leaves no room for an answer."""
    fits = tuple(prompt for prompt in suite.prompts if prompt.depth + n_predict <= n_ctx)
    _check(bool(fits), "n_ctx", f"room for one prompt of suite {suite.name} and {n_predict} tokens", n_ctx)
    notes = [
        f"prompt {prompt.id} was left out: {prompt.depth} tokens and {n_predict} more do not fit a context of {n_ctx}"
        for prompt in suite.prompts
        if prompt not in fits
    ]
    return (replace(suite, prompts=fits) if notes else suite), notes


def _check_rates(rates: Sequence[float], deepest: int) -> None:
    if not rates:
        return
    falling = all(a >= b for a, b in pairwise(rates))
    _check(
        falling and min(rates) >= 0 and max(rates) <= 1 and len(rates) >= deepest,
        "synth_rates", f"at least {deepest} numbers from 1 to 0, none above the one before it", tuple(rates),
    )  # fmt: skip


def _check(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise UsageError(f"{name} makes no measurement", expected=expected, found=found)
