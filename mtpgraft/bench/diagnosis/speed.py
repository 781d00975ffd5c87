"""Checks of what drafting gives and costs: pure functions over a Case. Thresholds and their evidence: docs/bench.md."""

from __future__ import annotations

from itertools import pairwise

from mtpgraft.bench.diagnosis.values import Case, Check, Verdict, seen
from mtpgraft.bench.host import SMALL_MODEL_NBYTES
from mtpgraft.bench.metrics import ArmResult, Spread, speed_up

BAD, WARN, OK, UNKNOWN = Verdict.BAD, Verdict.WARN, Verdict.OK, Verdict.UNKNOWN

GOOD_ACCEPTANCE = 0.60
"""The public rule of thumb for acceptance over all drafted tokens, used where the break-even is not measured. Published
runs that gained had 0.70 to 0.94; a run at 0.82 still lost (27B Q8_0, R9700, n=2), so it is no proof either way."""

DEAD_ACCEPTANCE = 0.10
"""Broken heads: zeroed eh_proj 0 of 183 tokens, norms without their +1 0 of 183, a collapsed int4 head 0 to 0.04."""

STEEP = 0.5
"""A later draft token that is accepted less than half as often as the one before it is mostly wasted work."""

CLIFF = 0.5
"""Speed at one depth more, over the speed before: a public 4090 run went from 84 tok/s at n=3 to 6 at n=4."""

PREFILL = 0.90
"""The head reads the prompt too: one block more than the trunk's 64 or 40. Over a tenth is more than its share."""

CATEGORY_GAP = 0.25
"""Acceptance of the best category less that of the worst."""

NOISE = 0.10
"""Spread of the repeats over their median, above which differences of some percent mean nothing."""


def acceptance(case: Case) -> Check:
    title = "is enough accepted"
    even = case.break_even()
    need = even[1].acceptance if even else None
    measured = need is not None and need <= 1
    bar = need if measured and need is not None else GOOD_ACCEPTANCE
    if even and measured:
        source = f"the break-even of {even[0].arm.name} here"
    else:
        source = "the rule of thumb; the break-even is not known" if need is None else "the rule of thumb"
    expected = f"at least {bar:.2f} ({source})"
    accepted = case.acceptance
    if accepted is None or case.subject is None:
        return Check("acceptance", title, expected, "no measured acceptance", UNKNOWN)
    observed = f"{accepted:.3f} with {case.subject.arm.name}"
    if accepted < DEAD_ACCEPTANCE:
        advice = (
            f"a head that works is never this low: `mtpgraft audit --deep {_model(case)}` looks for dead data, wrong "
            "norms and a head of another model"
        )
        return Check("acceptance", title, expected, observed, BAD, advice)
    if accepted < bar:
        does = "MTP costs more than it gives" if case.is_slower else "so little seldom pays"
        advice = f"{does}: draft fewer tokens (--n-max 1), raise --p-min, or leave it off"
        return Check("acceptance", title, expected, observed, BAD, advice)
    if accepted < GOOD_ACCEPTANCE:
        advice = "it pays here, but little is left for harder text: measure your own prompts with --suite FILE"
        return Check("acceptance", title, expected, observed, WARN, advice)
    return Check("acceptance", title, expected, observed, OK)


def overhead(case: Case) -> Check:
    """Whether the engine, not the head, is what makes it slow."""
    title = "does the engine verify cheaply"
    expected = f"a break-even acceptance of at most {GOOD_ACCEPTANCE:.2f}"
    even = case.break_even()
    if even is None:
        return Check("overhead", title, expected, "the time of a step is not known", UNKNOWN)
    arm, need = even
    observed = f"{arm.arm.name}: a step takes the time of {need.mean_accepted_length:.2f} tokens"
    yields = arm.total.mean_accepted_length
    if yields is not None and not arm.arm.is_synthetic:
        observed += f" and yields {yields:.2f}"
    observed += f"; break-even acceptance {need.acceptance:.2f}{_synthetic(case)}"
    if need.acceptance <= GOOD_ACCEPTANCE:
        return Check("overhead", title, expected, observed, OK)
    if need.acceptance <= 1:
        advice = "only a very good head pays here: fewer tokens per step (--n-max 1), a current build, another backend"
        return Check("overhead", title, expected, observed, WARN, advice)
    advice = (
        "no head could pay at this depth: the engine's work per step is the cost. Try --n-max 1, another backend or "
        "build, and all layers on the GPU; else leave MTP off"
    )
    if 0 < case.result.model.n_bytes < SMALL_MODEL_NBYTES:
        advice = "expected of so small a model, see small-model"
    return Check("overhead", title, expected, observed, BAD, advice)


def _synthetic(case: Case) -> str:
    """What the control run with the same acceptance by chance adds: the engine's part alone."""
    control = case.controls.run("overhead")
    change = control.change if control else None
    if control is None or change is None:
        return ""
    if not control.is_seen:
        return (
            "; drafts accepted at random at the same rates are as fast, so the engine sets the speed and not the head"
        )
    return f"; drafts accepted at random at the same rates run {change.median:.2f} x as fast"


def small_model(case: Case) -> Check:
    title = "is the model large enough to gain"
    limit = f"{SMALL_MODEL_NBYTES >> 20} MiB"
    expected = f"more than {limit}: the trunk must cost much more than the head"
    n_bytes = case.result.model.n_bytes
    if not n_bytes:
        return Check("small-model", title, expected, "the model's size is not known", UNKNOWN)
    observed = f"{n_bytes / 2**20:.1f} MiB"
    if n_bytes < SMALL_MODEL_NBYTES and case.gain is None:
        return Check("small-model", title, expected, f"{observed}; the speed was not compared with off", UNKNOWN)
    if n_bytes >= SMALL_MODEL_NBYTES or not case.is_slower:
        return Check("small-model", title, expected, observed, OK)
    advice = "the trunk of so small a model costs hardly more than its head: believe the acceptance, not the speed"
    return Check("small-model", title, expected, f"{observed}, and slower with MTP", WARN, advice)


def depth_cliff(case: Case) -> Check:
    """Neighbouring depths of the same engine, head and p_min."""
    title = "does speed fall off a cliff at some depth"
    expected = f"each depth at least {CLIFF:.2f} x as fast as the one before it"
    arms = sorted((arm for arm in case.result.on if arm.speed), key=lambda arm: arm.arm.n_max)
    worst: tuple[float, ArmResult, ArmResult] | None = None
    for after in arms:
        before = next((arm for arm in reversed(arms) if _is_shallower(arm, after)), None)
        if before is None or before.speed is None or after.speed is None:
            continue
        ratio = after.speed.median / before.speed.median
        if worst is None or ratio < worst[0]:
            worst = (ratio, before, after)
    if worst is None:
        return Check("depth-cliff", title, expected, "only one depth was measured", UNKNOWN)
    ratio, before, after = worst
    observed = f"{after.arm.name} at {ratio:.2f} x the speed of {before.arm.name}"
    if ratio >= CLIFF:
        return Check("depth-cliff", title, expected, observed, OK)
    advice = f"stay at {before.arm.name}: past it memory or a kernel's batch limit gives way"
    return Check("depth-cliff", title, expected, observed, BAD, advice)


def _is_shallower(arm: ArmResult, than: ArmResult) -> bool:
    a, b = arm.arm, than.arm
    return a.n_max < b.n_max and (a.engine, a.head, a.p_min) == (b.engine, b.head, b.p_min)


def p_min(case: Case) -> Check:
    title = "would a least probability (p_min 0.75) help"
    expected = f"each draft token accepted at least {STEEP:.2f} x as often as the one before it, or p_min 0.75"
    subject = case.subject
    if subject is None or not subject.drafted or subject.arm.is_synthetic:
        return Check("p-min", title, expected, "nothing was drafted", UNKNOWN)
    raised = _raised(case, subject)
    if raised is not None:
        change, repeats, name = raised
        observed = f"{name} runs {change.median:.2f} x as fast as {subject.arm.name}"
        if seen(change, repeats) and change.median > 1:
            return Check("p-min", title, expected, observed, WARN, "draft with --p-min 0.75")
        return Check("p-min", title, expected, observed, OK)
    if subject.arm.p_min:
        return Check("p-min", title, expected, f"p_min is {subject.arm.p_min:g} already", OK)
    rates = subject.total.acceptance_per_position
    if not rates or len(rates) < 2:
        why = "one token per step" if subject.arm.n_max == 1 else "the engine does not tell acceptance by position"
        return Check("p-min", title, expected, why, OK if subject.arm.n_max == 1 else UNKNOWN)
    observed = f"{subject.arm.name} accepts " + ", ".join(f"{rate:.2f}" for rate in rates) + " by position"
    if not _steep(rates):
        return Check("p-min", title, expected, observed, OK)
    return Check("p-min", title, expected, observed, WARN, "try --p-min 0,0.75: a draft then ends where it is unsure")


def is_steep(arm: ArmResult) -> bool:
    return _steep(arm.total.acceptance_per_position or ())


def _steep(rates: tuple[float, ...]) -> bool:
    return any(after < STEEP * before for before, after in pairwise(rates))


def _raised(case: Case, subject: ArmResult) -> tuple[Spread, int, str] | None:
    """The speed of the best arm with p_min from 0.5 over the subject's, of how many repeats, and its name: of the run
    itself, else of the control."""
    a = subject.arm
    arms = [arm for arm in case.result.on if arm.arm.p_min >= 0.5 > a.p_min and _only_p_min_differs(arm, subject)]
    best = max(arms, key=lambda arm: arm.speed.median if arm.speed else 0.0, default=None)
    control = case.controls.run("p-min")
    if best is not None:
        change, repeats, name = speed_up(best, subject), case.result.plan.repeats, best.arm.name
    elif control is not None:
        change, repeats, name = control.change, control.result.plan.repeats, control.changed.arm.name
    else:
        return None
    return None if change is None else (change, repeats, name)


def _only_p_min_differs(arm: ArmResult, other: ArmResult) -> bool:
    a, b = arm.arm, other.arm
    return (a.engine, a.head, a.n_max) == (b.engine, b.head, b.n_max)


def prefill(case: Case) -> Check:
    title = "are prompts read as fast as without MTP"
    expected = f"at least {PREFILL:.2f} x the prefill speed of off"
    ratio = None if case.subject is None else case.result.prefill_ratio(case.subject)
    if ratio is None:
        return Check("prefill", title, expected, "not measured", UNKNOWN)
    observed = f"{ratio.median:.2f} x ({ratio.low:.2f} to {ratio.high:.2f})"
    if ratio.median >= PREFILL or ratio.high >= 1:
        return Check("prefill", title, expected, observed, OK)
    advice = "with long prompts and short answers leave MTP off; `--suite long-context` measures it at depth"
    return Check("prefill", title, expected, observed, WARN, advice)


def categories(case: Case) -> Check:
    title = "is acceptance alike in all kinds of text"
    expected = f"categories within {CATEGORY_GAP:.2f} of each other, and none that loses while others gain"
    if case.acceptance is None or case.subject is None:
        return Check("categories", title, expected, "no measured acceptance", UNKNOWN)
    by_name = {name: tally.acceptance for name, tally in case.subject.by_category().items()}
    rates = {name: rate for name, rate in by_name.items() if rate is not None}
    if len(rates) < 2:
        return Check("categories", title, expected, "the suite has one category", UNKNOWN)
    best, worst = max(rates, key=lambda name: rates[name]), min(rates, key=lambda name: rates[name])
    observed = f"{best} {rates[best]:.2f}, {worst} {rates[worst]:.2f}"
    gains, repeats = case.result.category_speed_up(case.subject), case.result.plan.repeats
    losing = sorted(name for name, gain in gains.items() if seen(gain, repeats) and gain.high < 1)
    gaining = sorted(name for name, gain in gains.items() if seen(gain, repeats) and gain.low > 1)
    if losing and gaining:
        observed += f"; slower than off: {', '.join(losing)}; faster: {', '.join(gaining)}"
    elif rates[best] - rates[worst] <= CATEGORY_GAP:
        return Check("categories", title, expected, observed, OK)
    advice = f"judge by the text that you have: MTP for {best}, fewer tokens per step or none for {worst}"
    return Check("categories", title, expected, observed, WARN, advice)


def slots(case: Case) -> Check:
    title = "does MTP pay with this many slots"
    expected = "one slot, or a gain with several"
    n_slots = case.result.plan.n_parallel
    if n_slots == 1:
        return Check("slots", title, expected, "one slot", OK)
    gain = case.gain
    if gain is None:
        return Check("slots", title, expected, f"{n_slots} slots, not compared with off", UNKNOWN)
    observed = f"{n_slots} slots, {gain.median:.2f} x the throughput of off"
    if gain.low > 1:
        return Check("slots", title, expected, observed, OK)
    advice = "slots fill the batch that MTP would use: measure --parallel 1 too, and leave MTP off for many users"
    return Check("slots", title, expected, observed, WARN, advice)


def noise(case: Case) -> Check:
    title = "can the run tell a difference"
    expected = f"several repeats, within {NOISE:.0%} of their median"
    if case.result.plan.repeats < 2:
        advice = "repeat it (--repeats 3): one repeat tells no difference from noise"
        return Check("noise", title, expected, "one repeat", WARN, advice)
    widths = [
        (arm.arm.name, (arm.speed.high - arm.speed.low) / arm.speed.median)
        for arm in (case.off, case.subject)
        if arm is not None and arm.speed is not None
    ]
    if not widths:
        return Check("noise", title, expected, "no speed was measured", UNKNOWN)
    name, width = max(widths, key=lambda pair: pair[1])
    observed = f"{name} varies by {width:.0%} of its median"
    if width <= NOISE or seen(case.gain, case.result.plan.repeats):
        return Check("noise", title, expected, observed, OK)
    advice = "let nothing else run, take a longer suite and more repeats; this run tells acceptance, not speed"
    return Check("noise", title, expected, observed, WARN, advice)


def _model(case: Case) -> str:
    return case.result.model.name
