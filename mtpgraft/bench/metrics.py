"""What a bench measured: raw samples as values, and every figure derived from them in one place.

acceptance            accepted / drafted tokens.
mean accepted length  1 + accepted / verification steps, the step's own token included. llama.cpp's own formula and
                      log line (b11434 tools/server/server-context.cpp, print_timings: `mean len`).
tokens per second     sum of tokens / sum of time, never a mean of rates. The first token of a completion comes out of
                      the prompt's last batch and its time is the prompt's, so `n_predicted - 1` tokens count
                      (b11434 tools/server/server-common.h, n_gen_steps).
spread                lowest and highest of the repeats.
speed-up              an arm's tokens per second over the off arm's of the same repeat; median and spread of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from mtpgraft.bench.engine import CompletionResult
from mtpgraft.bench.protocol import Arm

# Characters shown on both sides of the first difference between two texts.
_DIFFERENCE_CHARS = 24

_Key = TypeVar("_Key", str, int)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured completion. repeat: from 0; prompt, category: of the suite's Prompt."""

    repeat: int
    prompt: str
    category: str
    result: CompletionResult


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        numbers = list(values)
        return cls(median(numbers), min(numbers), max(numbers)) if numbers else None


@dataclass(frozen=True, slots=True)
class Tally:
    """The figures of a group of samples: an arm, one of its categories, one repeat."""

    samples: tuple[Sample, ...]

    def _sum(self, figure: Callable[[CompletionResult], float]) -> float:
        return sum(figure(sample.result) for sample in self.samples)

    @property
    def n_predicted(self) -> int:
        return sum(sample.result.n_predicted for sample in self.samples)

    @property
    def draft_n(self) -> int:
        return sum(sample.result.draft_n for sample in self.samples)

    @property
    def draft_n_accepted(self) -> int:
        return sum(sample.result.draft_n_accepted for sample in self.samples)

    @property
    def drafted(self) -> bool:
        return self.draft_n > 0

    @property
    def acceptance(self) -> float | None:
        """None when nothing was drafted."""
        return self.draft_n_accepted / self.draft_n if self.draft_n else None

    @property
    def steps_are_counted(self) -> bool:
        """False: the engine keeps no count of verification steps, and `n_draft_steps` is derived."""
        return all(sample.result.n_draft_steps is not None for sample in self.samples)

    @property
    def n_draft_steps(self) -> int:
        """Verification steps: the engine's count, else derived.

        Every token after a completion's first was either an accepted draft or a step's own, so
        `n_predicted - 1 - accepted` counts the steps. It errs by a few: a step without a draft (no room for one
        before n_predict, or p_min ended it at once) is in it, and so are accepted tokens behind an end of text.
        """
        return sum(_steps(sample.result) for sample in self.samples)

    @property
    def mean_accepted_length(self) -> float | None:
        """None when nothing was drafted."""
        steps = self.n_draft_steps
        return 1 + self.draft_n_accepted / steps if self.drafted and steps else None

    @property
    def acceptance_per_position(self) -> tuple[float, ...] | None:
        """Share of the steps that accepted the draft's 1st, 2nd, ... token; None where the engine does not say."""
        counts = [sample.result.accepted_per_position for sample in self.samples]
        if not self.drafted or not self.n_draft_steps or any(count is None for count in counts):
            return None
        depth = max(len(count or ()) for count in counts)
        totals = [sum(count[i] for count in counts if count and i < len(count)) for i in range(depth)]
        return tuple(total / self.n_draft_steps for total in totals)

    @property
    def tokens_per_second(self) -> float | None:
        """Decode speed. None when no time was measured."""
        return _rate(self._sum(lambda r: max(0, r.n_predicted - 1)), self._sum(lambda r: r.predicted_ms))

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """Prompt tokens over the time to the first predicted token."""
        return _rate(self._sum(lambda r: r.prompt_n), self._sum(lambda r: r.prompt_ms))


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where an arm's greedy text leaves the off arm's. offset: in characters."""

    prompt: str
    repeat: int
    offset: int
    off: str
    on: str


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm's samples. n_threads: what the engine was told to use."""

    arm: Arm
    n_threads: int | None
    samples: tuple[Sample, ...]

    @property
    def total(self) -> Tally:
        return Tally(self.samples)

    @property
    def drafted(self) -> bool:
        return self.total.drafted

    def by_category(self) -> dict[str, Tally]:
        return _group(self.samples, lambda sample: sample.category)

    def by_repeat(self) -> dict[int, Tally]:
        return _group(self.samples, lambda sample: sample.repeat)

    @property
    def tokens_per_second(self) -> Spread | None:
        """Decode speed of each whole repeat."""
        return Spread.of(speed for tally in self.by_repeat().values() if (speed := tally.tokens_per_second))

    @property
    def prefill_tokens_per_second(self) -> Spread | None:
        return Spread.of(speed for tally in self.by_repeat().values() if (speed := tally.prefill_tokens_per_second))


def speed_up(on: ArmResult, off: ArmResult) -> Spread | None:
    """Decode speed of `on` over `off`, repeat by repeat."""
    base = off.by_repeat()
    return Spread.of(
        speed / other
        for repeat, tally in on.by_repeat().items()
        if repeat in base and (speed := tally.tokens_per_second) and (other := base[repeat].tokens_per_second)
    )


def differences(on: ArmResult, off: ArmResult) -> tuple[Difference, ...]:
    """For each prompt whose greedy text is not the off arm's in every repeat: the first repeat that differs."""
    base = {(sample.prompt, sample.repeat): sample.result.text for sample in off.samples}
    found: dict[str, Difference] = {}
    for sample in sorted(on.samples, key=lambda sample: sample.repeat):
        expected = base.get((sample.prompt, sample.repeat))
        text = sample.result.text
        if expected is None or expected == text or sample.prompt in found:
            continue
        offset = _first_difference(expected, text)
        window = slice(offset, offset + _DIFFERENCE_CHARS)
        found[sample.prompt] = Difference(sample.prompt, sample.repeat, offset, expected[window], text[window])
    return tuple(found.values())


def _steps(result: CompletionResult) -> int:
    if result.n_draft_steps is not None:
        return result.n_draft_steps
    return max(0, result.n_predicted - 1 - result.draft_n_accepted) if result.draft_n else 0


def _rate(tokens: float, ms: float) -> float | None:
    return 1000.0 * tokens / ms if ms > 0 and tokens > 0 else None


def _first_difference(a: str, b: str) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _group(samples: tuple[Sample, ...], key: Callable[[Sample], _Key]) -> dict[_Key, Tally]:
    groups: dict[_Key, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(key(sample), []).append(sample)
    return {name: Tally(tuple(members)) for name, members in groups.items()}
