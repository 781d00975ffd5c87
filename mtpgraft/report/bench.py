"""A bench result as a table and a few sentences."""

from __future__ import annotations

from mtpgraft.bench.metrics import ArmResult, Spread
from mtpgraft.bench.result import BenchResult
from mtpgraft.report.text import clean

COLUMNS = ("arm", "acceptance", "accepted/drafted", "mean length", "tok/s", "speed-up", "greedy text equal")
RIGHT = (1, 2, 3, 4, 5, 6)


def bench_rows(result: BenchResult) -> list[tuple[str, ...]]:
    """One row per arm, the off arm first."""
    return [_row(result, arm) for arm in result.arms]


def bench_heading(result: BenchResult) -> list[str]:
    """What was measured, on what, and how."""
    plan = result.plan
    engine, host = result.engine, result.host
    return [
        f"{clean(result.model.name)} on {clean(engine.name)} {clean(engine.build)}, {clean(host.cpu)}",
        f"suite {plan.suite.name} ({result.n_prompts} prompts), {plan.n_predict} tokens each, temperature 0, "
        f"{plan.repeats} repeat(s)",
    ]


def bench_verdict(result: BenchResult) -> list[str]:
    """What the figures say."""
    if not result.drafted_anything:
        return ["nothing was drafted: the engine ran and MTP did nothing"]
    lines = []
    fastest = result.fastest
    if fastest is result.off:
        lines.append("no MTP arm was faster than MTP off on this machine")
    else:
        speed_up = result.speed_up(fastest)
        factor = f"{speed_up.median:.2f} x" if speed_up else "?"
        lines.append(f"fastest: {fastest.arm.name}, {factor} the speed of MTP off")
    for arm in result.on:
        for difference in result.differences(arm)[:1]:
            lines.append(
                f"{arm.arm.name}: greedy text differs in prompt {clean(difference.prompt)} from character "
                f"{difference.offset} on: a near-tie may flip when tokens are verified in batches"
            )
    return lines


def _row(result: BenchResult, arm: ArmResult) -> tuple[str, ...]:
    total = arm.total
    is_off = arm is result.off
    speed_up = None if is_off else result.speed_up(arm)
    return (
        arm.arm.name,
        "-" if total.acceptance is None else f"{total.acceptance:.3f}",
        f"{total.draft_n_accepted}/{total.draft_n}" if total.draft_n else "-",
        "-" if total.mean_accepted_length is None else f"{total.mean_accepted_length:.2f}",
        _spread(arm.tokens_per_second),
        "1.00 x" if is_off else "-" if speed_up is None else f"{speed_up.median:.2f} x",
        "-" if is_off else f"{result.n_equal(arm)} of {result.n_prompts}",
    )


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.low == spread.high:
        return f"{spread.median:.0f}"
    return f"{spread.median:.0f} ({spread.low:.0f}-{spread.high:.0f})"
