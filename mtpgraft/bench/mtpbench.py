"""A bench result in the form of the public mtp-bench.py (am17an's gist, linked in ggml-org/llama.cpp#22673), which
people post and diff.

That script asks one server once; a bench has arms and repeats. So `results` and `aggregate` are those of one arm, in
the repeat whose speed is its median, and `arms` (which the script does not know, and its diff ignores) has all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from mtpgraft.bench.engine import Json
from mtpgraft.bench.metrics import ArmResult, Sample
from mtpgraft.bench.result import BenchResult


def mtp_bench_json(result: BenchResult, arm: ArmResult | None = None) -> dict[str, Json]:
    """arm: whose figures are at the top; None: the fastest MTP arm's."""
    chosen = arm or max(result.on, key=lambda one: one.speed.median if one.speed else 0.0)
    return {
        **_of(chosen),
        "arm": chosen.arm.name,
        "suite": {"name": result.plan.suite.name, "shape": result.plan.suite.shape, "hash": result.plan.suite.hash},
        "mtpgraft": result.mtpgraft_version,
        "arms": {one.arm.name: _of(one) for one in result.arms},
    }


def _of(arm: ArmResult) -> Mapping[str, Json]:
    samples = _median_repeat(arm)
    drafted = sum(sample.result.draft_n for sample in samples)
    accepted = sum(sample.result.draft_n_accepted for sample in samples)
    return {
        "results": [_row(sample) for sample in samples],
        "aggregate": {
            "n_requests": len(samples),
            "total_predicted": sum(sample.result.n_predicted for sample in samples),
            "total_draft": drafted,
            "total_draft_accepted": accepted,
            "aggregate_accept_rate": round(accepted / drafted, 4) if drafted else None,
            "wall_s_total": round(sum(_wall_s(sample) for sample in samples), 2),
        },
    }


def _row(sample: Sample) -> Mapping[str, Json]:
    result = sample.result
    return {
        "name": sample.prompt,
        "wall_s": round(_wall_s(sample), 3),
        "predicted_n": result.n_predicted,
        "predicted_per_second": result.predicted_per_second,
        "draft_n": result.draft_n,
        "draft_n_accepted": result.draft_n_accepted,
        "accept_rate": round(result.draft_n_accepted / result.draft_n, 4) if result.draft_n else None,
    }


def _median_repeat(arm: ArmResult) -> tuple[Sample, ...]:
    """The samples of the repeat with the median speed: figures that occurred together, no mixture of repeats."""
    speeds = arm.speeds()
    ranked = sorted(speeds, key=lambda repeat: speeds[repeat])
    repeat = ranked[(len(ranked) - 1) // 2] if ranked else 0
    return tuple(sample for sample in arm.samples if sample.repeat == repeat)


def _wall_s(sample: Sample) -> float:
    """Where an engine gives no wall time: its own times of prompt and answer."""
    result = sample.result
    return (result.prompt_ms + result.predicted_ms if result.wall_ms is None else result.wall_ms) / 1000
