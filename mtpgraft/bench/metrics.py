"""What a bench measured: raw samples as values, and every figure derived from them in one place.

acceptance            accepted / drafted tokens.
mean accepted length  1 + accepted / verification steps, the step's own token included. llama.cpp's own formula and
                      log line (b11434 tools/server/server-context.cpp, print_timings: `mean len`).
tokens per second     sum of tokens / sum of time, never a mean of rates. The first token of a completion comes out of
                      the prompt's last batch and its time is the prompt's, so `n_predicted - 1` tokens count
                      (b11434 tools/server/server-common.h, n_gen_steps).
throughput            all tokens of a repeat over its wall time, prompts included. The figure for several slots at once,
                      whose own decode speeds overlap in time.
spread                lowest and highest of the repeats.
speed                 what arms are ranked by: tokens per second with one slot, throughput with several.
speed-up              an arm's speed over the off arm's of the same repeat; median and spread of these.
prefill ratio         the same of the prefill speeds; below 1 where the head costs prefill time.
break-even            the mean accepted length at which MTP is as fast as off: the time of one verification step over
                      off's time of one token. The acceptance that gives it: (length - 1) / (drafted tokens per step).
"""

from __future__ import annotations

from collections import Counter
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
    """One measured completion. repeat, slot: from 0; prompt, category: of the suite's Prompt."""

    repeat: int
    prompt: str
    category: str
    result: CompletionResult
    slot: int = 0


@dataclass(frozen=True, slots=True)
class VramUse:
    """Memory of the fullest GPU while a session was up, whoever uses it. device: its name; source: who said so."""

    device: str
    used_nbytes: int
    total_nbytes: int
    source: str = "nvidia-smi"

    @property
    def share(self) -> float:
        return self.used_nbytes / self.total_nbytes if self.total_nbytes else 0.0


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

    @property
    def first_token_ms(self) -> float | None:
        """Median time to the first token. None where no sample has it."""
        times = [ms for sample in self.samples if (ms := sample.result.first_token_ms) is not None]
        return median(times) if times else None

    @property
    def wall_s(self) -> float | None:
        """Sum of the requests' wall times. None where a sample lacks it. Requests of several slots overlap."""
        times = [sample.result.wall_ms for sample in self.samples]
        return sum(ms for ms in times if ms is not None) / 1000 if times and None not in times else None

    @property
    def stops(self) -> dict[str, int]:
        """Why completions ended, and how many did so: everything but `length` ended early."""
        return dict(Counter(sample.result.stop for sample in self.samples))

    @property
    def ms_per_step(self) -> float | None:
        """Decode time of one verification step. None when nothing was drafted."""
        steps = self.n_draft_steps
        return self._sum(lambda r: r.predicted_ms) / steps if self.drafted and steps else None


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where an arm's greedy text leaves the off arm's. offset: in characters; slot: of the sample."""

    prompt: str
    repeat: int
    offset: int
    off: str
    on: str
    slot: int = 0


@dataclass(frozen=True, slots=True)
class BreakEven:
    """What an arm would need to be as fast as off. acceptance: above 1 where no head could do it."""

    mean_accepted_length: float
    acceptance: float


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm's samples.

    n_threads: what the engine was told to use. wall_s: per repeat, all its requests, without loading and warm-up.
    command: the command line of its last start, empty for an engine that has none.
    """

    arm: Arm
    n_threads: int | None
    samples: tuple[Sample, ...]
    wall_s: tuple[float, ...] = ()
    vram: VramUse | None = None
    command: tuple[str, ...] = ()

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
        return Spread.of(_by_repeat(self.samples, _decode).values())

    @property
    def prefill_tokens_per_second(self) -> Spread | None:
        return Spread.of(_by_repeat(self.samples, _prefill).values())

    @property
    def throughput(self) -> Spread | None:
        """Tokens of all slots per second of wall time, prompts included. None where no wall time was kept."""
        return Spread.of(self._throughputs().values())

    @property
    def speed(self) -> Spread | None:
        """What arms are ranked by: decode speed with one slot, throughput with several."""
        return Spread.of(self.speeds().values())

    def speeds(self) -> dict[int, float]:
        """`speed` of each repeat."""
        return self._throughputs() if self.arm.launch.n_parallel > 1 else _by_repeat(self.samples, _decode)

    def _throughputs(self) -> dict[int, float]:
        return {
            repeat: tally.n_predicted / self.wall_s[repeat]
            for repeat, tally in self.by_repeat().items()
            if repeat < len(self.wall_s) and self.wall_s[repeat] > 0
        }


def speed_up(on: ArmResult, off: ArmResult) -> Spread | None:
    """Speed of `on` over `off`, repeat by repeat."""
    return _ratio(on.speeds(), off.speeds())


def category_speed_up(on: ArmResult, off: ArmResult) -> dict[str, Spread]:
    """Decode speed of `on` over `off` in each category, repeat by repeat."""
    base = _by_category(off.samples)
    pairs = {
        name: _ratio(_by_repeat(members, _decode), _by_repeat(base.get(name, ()), _decode))
        for name, members in _by_category(on.samples).items()
    }
    return {name: spread for name, spread in pairs.items() if spread is not None}


def prefill_ratio(on: ArmResult, off: ArmResult) -> Spread | None:
    """Prefill speed of `on` over `off`, repeat by repeat. 0.9: MTP costs a tenth of it."""
    return _ratio(_by_repeat(on.samples, _prefill), _by_repeat(off.samples, _prefill))


def break_even(on: ArmResult, off: ArmResult) -> BreakEven | None:
    """None where either was not measured, nothing was drafted, or several slots share a step."""
    step_ms, base = on.total.ms_per_step, off.total.tokens_per_second
    if step_ms is None or base is None or on.arm.launch.n_parallel > 1:
        return None
    length = max(1.0, step_ms * base / 1000)
    return BreakEven(length, (length - 1) / (on.total.draft_n / on.total.n_draft_steps))


def differences(on: ArmResult, off: ArmResult) -> tuple[Difference, ...]:
    """For each prompt whose greedy text is not the off arm's in every repeat: the first repeat that differs."""
    base = {(sample.prompt, sample.repeat, sample.slot): sample.result for sample in off.samples}
    found: dict[str, Difference] = {}
    for sample in sorted(on.samples, key=lambda sample: sample.repeat):
        result = base.get((sample.prompt, sample.repeat, sample.slot))
        if result is None or sample.prompt in found or _same_text(sample.result, result):
            continue
        expected, text = result.text, sample.result.text
        offset = _first_difference(expected, text)
        window = slice(offset, offset + _DIFFERENCE_CHARS)
        found[sample.prompt] = Difference(
            sample.prompt, sample.repeat, offset, expected[window], text[window], sample.slot
        )
    return tuple(found.values())


def _same_text(on: CompletionResult, off: CompletionResult) -> bool:
    """Equal, or cut by the limit inside its last step.

    ik_llama.cpp (8337e4c) counts the accepted tokens of the step that reaches n_predict, and leaves the last of them
    out of the text.
    """
    is_cut = on.stop == off.stop == "length" and on.text != "" and off.text.startswith(on.text)
    return on.text == off.text or is_cut


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


def _by_category(samples: tuple[Sample, ...]) -> dict[str, tuple[Sample, ...]]:
    return {name: tally.samples for name, tally in _group(samples, lambda sample: sample.category).items()}


def _by_repeat(samples: tuple[Sample, ...], figure: Callable[[Tally], float | None]) -> dict[int, float]:
    """The figure of each repeat that has it."""
    tallies = _group(samples, lambda sample: sample.repeat)
    return {repeat: value for repeat, tally in tallies.items() if (value := figure(tally))}


def _decode(tally: Tally) -> float | None:
    return tally.tokens_per_second


def _prefill(tally: Tally) -> float | None:
    return tally.prefill_tokens_per_second


def _ratio(on: dict[int, float], off: dict[int, float]) -> Spread | None:
    return Spread.of(value / off[repeat] for repeat, value in on.items() if off.get(repeat))
