"""What the figures of a bench say, in sentences: which arm wins, by how much, and what must not be read into it.

A difference is called one only when every repeat shows it (`bench_tables.seen`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mtpgraft.bench.metrics import ArmResult, BreakEven, Spread, speed_up
from mtpgraft.bench.result import BenchResult
from mtpgraft.report.bench_tables import arm_speed, median_speed, seconds, seen, speed_word, spread, times


@dataclass(frozen=True, slots=True)
class Headline:
    """The one thing to know. figure: to print large; mood: `good`, `bad` or `plain`; arm: the one it is about."""

    figure: str
    text: str
    mood: str
    arm: ArmResult | None = None


def headline(result: BenchResult) -> Headline:
    """The best MTP arm against off."""
    if not result.drafted_anything:
        return Headline("0", "tokens were drafted: the engine ran and MTP did nothing", "bad")
    best = fastest_of(result.on)
    gain = result.speed_up(best)
    if gain is None:
        return Headline(arm_speed(best), f"{best.arm.name}; MTP off was not measured", "plain", best)
    mood = "plain" if not seen(gain) else "good" if gain.median > 1 else "bad"
    speed = speed_word(result.plan)
    text = {
        "good": f"the {speed} of MTP off, with {best.arm.name}",
        "bad": f"the {speed} of MTP off: even the best arm, {best.arm.name}, is slower",
        "plain": f"with {best.arm.name}, the best arm: no difference from MTP off seen",
    }[mood]
    return Headline(times(gain.median), text, mood, best)


def verdict(result: BenchResult) -> list[str]:
    """What to conclude, most important first. Names are as they came: whoever shows them escapes them."""
    if not result.drafted_anything:
        return ["nothing was drafted: the engine ran and MTP did nothing", *_early_stops(result)]
    return [
        *_winner(result),
        *_engines(result),
        *_wall(result),
        *_acceptance_misleads(result),
        *_short_of_break_even(result),
        *_prefill(result),
        *_cautions(result),
        *_early_stops(result),
        *_texts(result),
    ]


def break_even_of(result: BenchResult, arm: ArmResult) -> BreakEven | None:
    """None with p_min, too: steps without a draft are not counted, so the time of one step is not known."""
    return None if arm.arm.p_min else result.break_even(arm)


def fastest_of(arms: Iterable[ArmResult]) -> ArmResult:
    """By median speed; the earlier one of equals."""
    return max(arms, key=median_speed)


def _winner(result: BenchResult) -> list[str]:
    best = fastest_of(result.on)
    off, gain = result.off_of(best), result.speed_up(best)
    name, speed = best.arm.name, speed_word(result.plan)
    if off is None or gain is None:
        return [f"fastest: {name}, {arm_speed(best)}; MTP off was not measured"]
    against = arm_speed(best, off)
    if not seen(gain):
        line = (
            f"no difference seen: {name}, the best MTP arm, is {spread(gain, times)} the {speed} of MTP off ({against})"
        )
    elif gain.median < 1:
        line = f"MTP off is the fastest: {name}, the best MTP arm, is {spread(gain, times)} its {speed} ({against})"
    else:
        line = f"fastest: {name}, {spread(gain, times)} the {speed} of MTP off ({against})"
    equal = [
        arm.arm.name
        for arm in result.on
        if arm is not best and (ratio := speed_up(best, arm)) and not seen(ratio) and ratio.low < ratio.high
    ]
    return [line, *([f"no difference was seen between {listed([name, *equal])}"] if equal else [])]


def _engines(result: BenchResult) -> list[str]:
    """Each engine's best arm, against the fastest one's."""
    arms = [[arm for arm in result.arms if arm.arm.engine == label] for label in result.plan.engines]
    first, *others = sorted((fastest_of(group) for group in arms if group), key=median_speed, reverse=True)
    lines = []
    for other in others:
        a, b, ratio = first.arm, other.arm, speed_up(first, other)
        sides = f"({a.name} {arm_speed(first)}, {b.name} {arm_speed(other)})"
        if seen(ratio):
            lines.append(f"{a.engine} is {spread(ratio, times)} as fast as {b.engine}, each at its best {sides}")
        elif ratio:
            lines.append(f"between {a.engine} and {b.engine}, each at its best, no difference was seen {sides}")
    return lines


def _wall(result: BenchResult) -> list[str]:
    """Who is done first, prompts included."""
    timed = [(arm, wall) for arm in result.arms if (wall := Spread.of(arm.wall_s))]
    if len(timed) < 2:
        return []
    best, least = min(timed, key=lambda pair: pair[1].median)
    fastest = fastest_of(result.arms)
    others = [pair for pair in timed if pair[0].arm.is_off and pair[0] is not best and pair[0] is not fastest]
    text = f"least wall time for the suite: {best.arm.name}, {spread(least, seconds)}"
    text += "".join(f"; {arm.arm.name} {spread(wall, seconds)}" for arm, wall in others)
    needed = Spread.of(fastest.wall_s)
    if best is fastest or needed is None:
        return [text]
    if least.high >= needed.low:
        return [f"{text}; the difference to {fastest.arm.name} ({spread(needed, seconds)}) is within the spread"]
    return [
        f"{text}; {fastest.arm.name} decodes faster and needs {spread(needed, seconds)}: reading prompts counts too"
    ]


def _acceptance_misleads(result: BenchResult) -> list[str]:
    """Where the arm that accepts more is the slower one."""
    measured = [arm for arm in result.on if arm.total.acceptance is not None and not arm.arm.is_synthetic]
    if len(measured) < 2:
        return []
    if len(result.plan.engines) > 1:  # each at its best: that is what people compare
        groups = ([arm for arm in measured if arm.arm.engine == label] for label in result.plan.engines)
        measured = [fastest_of(group) for group in groups if group]
    fastest, keenest = fastest_of(measured), max(measured, key=_acceptance)
    ratio = speed_up(fastest, keenest)
    if _acceptance(keenest) <= _acceptance(fastest) or ratio is None or ratio.low <= 1:
        return []
    fast, keen = fastest.arm.name, keenest.arm.name
    text = (
        f"acceptance alone misleads: {keen} accepts {_acceptance(keenest):.3f} at {arm_speed(keenest)}, "
        f"{fast} only {_acceptance(fastest):.3f} at {arm_speed(fastest)}. It is the share of drafted tokens "
        "that were kept"
    )
    more, less = _per_pass(fastest), _per_pass(keenest)
    if more > less:
        return [
            f"{text}; what counts is tokens per pass of the model, {more:.2f} with {fast} and {less:.2f} with {keen}"
        ]
    return [f"{text}, and says nothing of the time that drafting and verifying take"]


def _per_pass(arm: ArmResult) -> float:
    """Tokens per pass of the whole model, passes without a draft included: every pass yields one of its own."""
    n_decoded = sum(max(0, sample.result.n_predicted - 1) for sample in arm.samples)
    return n_decoded / max(1, n_decoded - arm.total.draft_n_accepted)


def _short_of_break_even(result: BenchResult) -> list[str]:
    """Why the best arm loses: what its head would have to accept."""
    best = fastest_of(result.on)
    gain, need, accepted = result.speed_up(best), break_even_of(result, best), best.total.acceptance
    if gain is None or gain.high >= 1 or need is None or accepted is None:
        return []
    if need.acceptance > 1:
        return [
            f"no head could make {best.arm.name} as fast as MTP off here: a step costs more than all its tokens save"
        ]
    return [
        f"{best.arm.name} accepts {accepted:.2f} and would need {need.acceptance:.2f} to be as fast as MTP off here"
    ]


def _prefill(result: BenchResult) -> list[str]:
    compared = [(arm.arm.name, ratio) for arm in result.on if (ratio := result.prefill_ratio(arm))]
    slower = [(name, ratio) for name, ratio in compared if ratio.high < 1]
    if not slower:
        return []
    least, most = (f"{100 * (1 - end(ratio.median for _, ratio in slower)):.0f}" for end in (max, min))
    loss = least if least == most else f"{least} to {most}"
    several = len(slower) == len(compared) > 1
    return [f"prompts are read {loss} % slower with {'every MTP arm' if several else listed([n for n, _ in slower])}"]


def _cautions(result: BenchResult) -> list[str]:
    lines = []
    if result.plan.repeats == 1:
        lines.append("one repeat only: nothing tells a difference from noise")
    if any(arm.arm.is_synthetic for arm in result.arms):
        lines.append("synthetic arms accept at random: they show what such acceptance is worth, not what the head has")
    return lines


def _early_stops(result: BenchResult) -> list[str]:
    early = [(arm, n) for arm in result.arms if (n := len(result.early_stops(arm)))]
    if not early:
        return []
    what = f"ended before {result.plan.n_predict} tokens"
    counts = {n for _, n in early}
    if len(early) == len(result.arms) and len(counts) == 1:
        return [f"in every arm {counts.pop()} of {len(early[0][0].samples)} texts {what}"]
    return [f"texts that {what}: " + ", ".join(f"{arm.arm.name} {n} of {len(arm.samples)}" for arm, n in early)]


def _texts(result: BenchResult) -> list[str]:
    lines = [
        f"{arm.arm.name}: greedy text differs from off's in {len(found)} of {result.n_prompts} prompts, first in "
        f"{found[0].prompt} from character {found[0].offset} on"
        for arm in result.on
        if (found := result.differences(arm))
    ]
    if lines:
        lines.append("tokens verified in a batch are rounded differently, which may flip a near-tie")
    return lines


def _acceptance(arm: ArmResult) -> float:
    return arm.total.acceptance or 0.0


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
