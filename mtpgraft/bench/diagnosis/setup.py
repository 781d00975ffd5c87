"""Checks of what was run: engine, memory, head and text. Pure functions over a Case; evidence: docs/bench.md."""

from __future__ import annotations

from mtpgraft.bench.diagnosis.values import Case, Check, Verdict
from mtpgraft.bench.engines.builds import troubles_of
from mtpgraft.bench.metrics import ArmResult
from mtpgraft.container.types import TENSOR_TYPES_BY_NAME

BAD, WARN, OK, UNKNOWN = Verdict.BAD, Verdict.WARN, Verdict.OK, Verdict.UNKNOWN

FULL_VRAM = 0.95
"""A judgement: what is left is no room for a larger batch; Windows drivers then move data to system memory."""

HEAD_TOLERANCE = 0.04
"""Acceptance by which heads of two types differ without either being better: on three bases of the bundled model, at
n=1 to 3, a Q4_0 head lies between 0.032 below and 0.021 above the Q8_0 one (b11434, suite quick)."""

EARLY_STOPS = 0.25
"""Share of texts that ended early, above which arms compare different amounts of text."""

EARLY_DIFFERENCE = 16
"""Characters. Near-ties flip anywhere; texts that nearly all part at once have another reason."""

_FA_PAIRS = {("q4_0", "q4_0"), ("q8_0", "q8_0"), ("f16", "f16"), ("bf16", "bf16")}
"""K and V types for which CUDA builds have a flash-attention vector kernel; others are converted in every step, which
llama.cpp itself calls slow (b11434 ggml/CMakeLists.txt, GGML_CUDA_FA_QUANTS; ggml-cuda/fattn.cu)."""

_FINE_KV = ("f32", "f16", "bf16", "q8_0")


def engaged(case: Case) -> Check:
    title = "did MTP draft at all"
    expected = "drafted tokens in every MTP arm"
    arms = case.result.on
    if not arms:
        return Check("engaged", title, expected, "no MTP arm was measured", UNKNOWN)
    idle = [arm.arm.name for arm in arms if not arm.drafted]
    n_drafted = sum(arm.total.draft_n for arm in arms)
    if not idle:
        return Check("engaged", title, expected, f"{n_drafted} tokens drafted", OK)
    if len(idle) < len(arms):
        advice = "lower p_min: its drafts end before their first token"
        return Check("engaged", title, expected, f"nothing drafted with {', '.join(idle)}", WARN, advice)
    if all(case.result.engine_of(arm).kind == "openai" for arm in arms):
        return Check("engaged", title, expected, "this server does not tell what it drafts", UNKNOWN)
    advice = (
        f"`mtpgraft audit {case.result.model.name}` says whether the head is whole, `mtpgraft doctor` whether the "
        "build drafts; a server of your own needs --spec-type draft-mtp"
    )
    return Check("engaged", title, expected, "no token was drafted", BAD, advice)


def build(case: Case) -> Check:
    title = "is the build free of known trouble"
    expected = "no build that is known to go wrong with MTP"
    troubles = [
        (engine, trouble)
        for engine in case.result.engines
        if engine.kind == "llama.cpp"
        for trouble in troubles_of(engine.build_number)
    ]
    if troubles:
        engine, trouble = troubles[0]
        observed = f"{engine.build}: {trouble.name}, {trouble.consequence} ({trouble.source})"
        return Check("build", title, expected, observed, BAD, trouble.advice)
    builds = ", ".join(dict.fromkeys(f"{engine.name} {engine.build}" for engine in case.result.engines))
    known = all(engine.kind == "llama.cpp" and engine.build_number is not None for engine in case.result.engines)
    return Check(
        "build", title, expected, builds if known else f"{builds}: no number to look up", OK if known else UNKNOWN
    )


def kinship(case: Case) -> Check:
    title = "is the head this model's own, and sound"
    expected = "a head made for this trunk, with live data"
    evidence = case.controls.head
    if evidence is None:
        advice = f"`mtpgraft audit --deep {case.result.model.name}` compares them"
        return Check("kinship", title, expected, "the files were not read", UNKNOWN, advice)
    if evidence.findings:
        first = evidence.findings[0]
        observed = f"{first.title} ({first.id}): {first.observed}"
        return Check("kinship", title, expected, observed, BAD, first.fix)
    if evidence.related == "different":
        advice = "take the head from this very model: `mtpgraft repair` finds its donor"
        return Check("kinship", title, expected, evidence.explanation, BAD, advice)
    if evidence.related == "close":
        advice = "a finetune's own head may draft better, if its author published one"
        return Check("kinship", title, expected, evidence.explanation, WARN, advice)
    verdict = OK if evidence.related == "same" else UNKNOWN
    return Check("kinship", title, expected, evidence.explanation, verdict)


def vram(case: Case) -> Check:
    title = "is there headroom in the GPU's memory"
    expected = f"at most {FULL_VRAM:.0%} in use"
    used = [(arm.vram.share, arm, arm.vram) for arm in case.result.arms if arm.vram is not None]
    if not used:
        return Check("vram", title, expected, "not known: no nvidia-smi, or no GPU", UNKNOWN)
    share, arm, vram_use = max(used, key=lambda row: row[0])
    observed = f"{share:.1%} of {vram_use.total_nbytes / 2**30:.1f} GiB with {arm.arm.name} ({vram_use.device})"
    if share <= FULL_VRAM:
        return Check("vram", title, expected, observed, OK)
    advice = (
        "less context, a KV cache of q8_0, or a smaller n: "
        f"`mtpgraft plan {case.result.model.name} --vram auto` says what fits"
    )
    return Check("vram", title, expected, observed, BAD if case.is_slower else WARN, advice)


def cuda_graphs(case: Case) -> Check:
    """Drafting alternates between graphs of several shapes; where each must be captured anew, graphs cost time."""
    title = "do CUDA graphs help"
    expected = "not slower than with GGML_CUDA_DISABLE_GRAPHS=1"
    control = case.controls.run("cuda-graphs")
    change = control.change if control else None
    if control is None or change is None:
        why = "no control run was made" if case.on_cuda else "no CUDA device took part"
        advice = "`mtpgraft bench --diagnose` makes the control run" if case.on_cuda else ""
        return Check("cuda-graphs", title, expected, why, UNKNOWN, advice)
    observed = f"without them {change.median:.2f} x as fast ({change.low:.2f} to {change.high:.2f})"
    if control.is_seen and change.median > 1:
        return Check("cuda-graphs", title, expected, observed, WARN, "start the server with GGML_CUDA_DISABLE_GRAPHS=1")
    return Check("cuda-graphs", title, expected, observed, OK)


def head_type(case: Case) -> Check:
    title = "is the head stored precisely enough"
    expected = "Q8_0 or better, or a lower type that was measured beside it"
    low = {head.label: types for head in case.result.heads if (types := low_types(head.types))}
    known = [head for head in case.result.heads if head.types]
    if not known:
        return Check("head-type", title, expected, "the head's types are not known", UNKNOWN)
    if not low:
        stored = ", ".join(dict.fromkeys(name for head in known for name, _ in head.types))
        return Check("head-type", title, expected, stored, OK)
    observed = "; ".join(f"{label}: {', '.join(types)}".removeprefix(": ") for label, types in low.items())
    rivals = _beside(case, frozenset(low))
    if rivals is None:
        advice = (
            f"measure a Q8_0 head beside it: `mtpgraft bench {case.result.model.name} --head-type q8_0 --donor DONOR`; "
            "public tests disagree on what precision costs, and Q8_0 is small"
        )
        return Check("head-type", title, expected, observed, WARN, advice)
    worst, best = rivals
    loss = _acceptance(best) - _acceptance(worst)
    observed += f"; {worst.arm.name} accepts {_acceptance(worst):.3f}, {best.arm.name} {_acceptance(best):.3f}"
    if loss <= HEAD_TOLERANCE:
        return Check("head-type", title, expected, observed, OK)
    return Check("head-type", title, expected, observed, WARN, f"graft the head at a higher type: {best.arm.head}")


def low_types(types: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """Those of fewer bits per value than Q8_0. Types of unknown size are left out: nothing is known of them."""
    q8_0 = TENSOR_TYPES_BY_NAME["Q8_0"]
    found = []
    for name, _ in types:
        known = TENSOR_TYPES_BY_NAME.get(name)
        if known and known.block_nbytes and known.block_nbytes / known.block < q8_0.block_nbytes / q8_0.block:
            found.append(name)
    return tuple(found)


def _beside(case: Case, low: frozenset[str]) -> tuple[ArmResult, ArmResult] | None:
    """The low head that accepts least, and the best of the others, at the subject's engine, depth and p_min."""
    if case.subject is None:
        return None
    at = case.subject.arm
    same = [
        arm
        for arm in case.result.on
        if (arm.arm.engine, arm.arm.n_max, arm.arm.p_min) == (at.engine, at.n_max, at.p_min) and arm.drafted
    ]
    below = [arm for arm in same if arm.arm.head in low]
    others = [arm for arm in same if arm.arm.head not in low]
    return (min(below, key=_acceptance), max(others, key=_acceptance)) if below and others else None


def kv_types(case: Case) -> Check:
    title = "is the KV cache stored well"
    expected = "f16 or q8_0, the same for K and V"
    arm = (case.subject or case.result.arms[0]).arm
    if arm.as_it_runs:
        return Check("kv-types", title, expected, "a running server does not tell", UNKNOWN)
    launch = arm.launch
    k, v = (kind or "f16" for kind in (launch.cache_type_k, launch.cache_type_v))
    observed = f"K {k}, V {v}"
    if case.on_cuda and (k.lower(), v.lower()) not in _FA_PAIRS:
        advice = "CUDA builds have fast kernels for equal types of f16, bf16, q8_0 and q4_0 only: others are converted"
        return Check("kv-types", title, expected, observed, WARN, advice)
    if k in _FINE_KV and v in _FINE_KV:
        return Check("kv-types", title, expected, observed, OK)
    advice = "low types change what the trunk says and what the head sees of it: compare with q8_0 before you trust it"
    return Check("kv-types", title, expected, observed, WARN, advice)


def greedy_text(case: Case) -> Check:
    title = "is the greedy text that of off"
    expected = "equal, but for a near-tie here and there"
    n_equal = None if case.subject is None else case.result.n_equal(case.subject)
    if n_equal is None or case.subject is None:
        return Check("greedy-text", title, expected, "nothing to compare", UNKNOWN)
    n_prompts = case.result.n_prompts
    observed = f"{case.subject.arm.name}: equal in {n_equal} of {n_prompts} prompts"
    if n_equal == n_prompts:
        return Check("greedy-text", title, expected, observed, OK)
    found = case.result.differences(case.subject)
    first = min(found, key=lambda difference: difference.offset)
    observed += f", first difference in {first.prompt} at character {first.offset}"
    n_at_once = sum(difference.offset < EARLY_DIFFERENCE for difference in found)
    if n_prompts > 2 and n_at_once > n_prompts / 2:
        advice = "texts part at once: not rounding. Compare builds and backends, and report it with the JSON file"
        return Check("greedy-text", title, expected, observed, BAD, advice)
    advice = "tokens verified in a batch are rounded differently, which may flip a near-tie: read the texts"
    return Check("greedy-text", title, expected, observed, WARN, advice)


def early_stops(case: Case) -> Check:
    title = "did the texts run to their full length"
    expected = f"at most {EARLY_STOPS:.0%} that end early"
    n_samples = sum(len(arm.samples) for arm in case.result.arms)
    n_early = sum(len(case.result.early_stops(arm)) for arm in case.result.arms)
    observed = f"{n_early} of {n_samples} ended before {case.result.plan.n_predict} tokens"
    if not n_samples:
        return Check("early-stops", title, expected, "nothing was measured", UNKNOWN)
    if n_early <= EARLY_STOPS * n_samples:
        return Check("early-stops", title, expected, observed, OK)
    advice = "use prompts with longer answers, or a suite whose shape fits the model (chat or completion)"
    return Check("early-stops", title, expected, observed, WARN, advice)


def _acceptance(arm: ArmResult) -> float:
    return arm.total.acceptance or 0.0
