"""The JSON form of a bench result (schema_version 1, documented in docs/bench.md), written and read.

It holds every raw sample and every figure. Reading takes the raw part only, so a figure in a file can never disagree
with its samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mtpgraft.bench.codec import decode, encode
from mtpgraft.bench.engine import CompletionResult, EngineInfo, Json, LaunchSpec
from mtpgraft.bench.host import HostInfo
from mtpgraft.bench.metrics import ArmResult, Sample, Tally, VramUse
from mtpgraft.bench.prompts import Suite
from mtpgraft.bench.protocol import Arm, BenchPlan
from mtpgraft.bench.result import BenchResult, FileFacts, HeadFacts
from mtpgraft.bench.sweep import Trial
from mtpgraft.errors import InputError
from mtpgraft.jsontext import parse_json
from mtpgraft.source.local import read_text

SCHEMA_VERSION = 1
_MAX_NBYTES = 64 * 2**20
"""A sweep with every raw sample takes a few MB."""


def result_json(result: BenchResult) -> dict[str, Json]:
    """Every figure, every raw sample, and what is needed to run it again."""
    plan = result.plan
    first = plan.arms[0].launch
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "bench",
        "mtpgraft": result.mtpgraft_version,
        "started_at": result.started_at,
        "wall_s": result.wall_s,
        "cut_short": result.cut_short,
        "notes": list(result.notes),
        "model": encode(result.model),
        "heads": [{**asdict(head), "types": dict(head.types)} for head in result.heads],
        "engine": encode(result.engine),
        "engines": [
            {"label": label, **_object(encode(info))} for label, info in zip(plan.engines, result.engines, strict=True)
        ],
        "host": encode(result.host),
        "suite": {**_object(encode(plan.suite)), "hash": plan.suite.hash, "n_prompts": result.n_prompts},
        "settings": {
            "n_predict": plan.n_predict,
            "repeats": plan.repeats,
            "seed": plan.seed,
            "temperature": plan.warm_up.temperature,
            "cache_prompt": plan.warm_up.cache_prompt,
            "n_ctx": plan.n_ctx,
            "n_parallel": plan.n_parallel,
            "n_threads": result.arms[0].n_threads,
            "n_gpu_layers": first.n_gpu_layers,
            "cache_type_k": first.cache_type_k,
            "cache_type_v": first.cache_type_v,
            "rpc": list(first.rpc),
            "args": list(first.args),
            "extra": dict(first.extra),
            "notes": list(plan.notes),
        },
        "drafted_anything": result.drafted_anything,
        "fastest": result.fastest.arm.name,
        "sweep": encode(result.sweep),
        "arms": [_arm_json(result, arm) for arm in result.arms],
    }


def result_from_json(document: object, file: object = None) -> BenchResult:
    """The result that `to_json` described. file: what is being read, for the error.

    Raises InputError, naming the field, for another schema or anything that is not a bench result.
    """
    doc = _checked(document, file)
    raw = decode(_Raw, doc, file)
    arms = tuple(_arm(item, file, f".arms[{number}]") for number, item in enumerate(raw.arms))
    if not arms or not raw.suite.prompts or {arm.arm.engine for arm in arms} - {engine.label for engine in raw.engines}:
        raise InputError("lacks arms, prompts, or the engine of an arm", file=file, where=".arms")
    return BenchResult(
        plan=BenchPlan(
            arms=tuple(arm.arm for arm in arms),
            suite=raw.suite,
            n_predict=raw.settings.n_predict,
            repeats=raw.settings.repeats,
            seed=raw.settings.seed,
            engines=tuple(engine.label for engine in raw.engines),
            notes=raw.settings.notes,
        ),
        arms=arms,
        engines=tuple(
            decode(EngineInfo, engine, file, f".engines[{number}]")
            for number, engine in enumerate(_list(doc["engines"]))
        ),
        host=raw.host,
        model=raw.model,
        heads=tuple(
            HeadFacts(head.label, head.file, head.head_sha256, tuple(head.types.items())) for head in raw.heads
        ),
        started_at=raw.started_at,
        wall_s=raw.wall_s,
        mtpgraft_version=raw.mtpgraft,
        notes=raw.notes,
        cut_short=raw.cut_short,
        sweep=raw.sweep,
    )


def read_result(path: Path) -> BenchResult:
    """A result that `mtpgraft bench --save` or `--json` wrote. Raises InputError."""
    text = read_text(path, _MAX_NBYTES, "a result of `mtpgraft bench --save`")
    return BenchResult.from_json(parse_json(text.encode(), path, strict=False), path)


def _arm_json(result: BenchResult, arm: ArmResult) -> dict[str, Json]:
    differing = result.differences(arm)
    return {
        "name": arm.arm.name,
        "engine": arm.arm.engine,
        "head": arm.arm.head,
        "n_max": arm.arm.n_max if arm.arm.has_known_depth else None,
        "p_min": arm.arm.p_min if arm.arm.has_known_depth else None,
        "as_it_runs": arm.arm.as_it_runs,
        "synthetic": arm.arm.is_synthetic,
        "n_threads": arm.n_threads,
        "launch": encode(arm.arm.launch),
        "command": list(arm.command),
        "vram": encode(arm.vram),
        "wall_s": list(arm.wall_s),
        **_tally_json(arm.total),
        "tokens_per_second_spread": encode(arm.tokens_per_second),
        "prefill_tokens_per_second_spread": encode(arm.prefill_tokens_per_second),
        "throughput": encode(arm.throughput),
        "speed_up": encode(result.speed_up(arm)),
        "category_speed_up": encode(result.category_speed_up(arm)),
        "prefill_ratio": encode(result.prefill_ratio(arm)),
        "break_even": encode(result.break_even(arm)),
        "n_early_stops": len(result.early_stops(arm)),
        "greedy_equal": {
            "n_prompts": result.n_prompts,
            "n_equal": result.n_equal(arm),
            "differences": [asdict(difference) for difference in differing],
        },
        "categories": {name: _tally_json(tally) for name, tally in arm.by_category().items()},
        "samples": [_sample_json(sample) for sample in arm.samples],
    }


def _tally_json(tally: Tally) -> dict[str, Json]:
    return {
        "n_predicted": tally.n_predicted,
        "drafted": tally.drafted,
        "draft_n": tally.draft_n,
        "draft_n_accepted": tally.draft_n_accepted,
        "acceptance": tally.acceptance,
        "acceptance_per_position": tally.acceptance_per_position,
        "n_draft_steps": tally.n_draft_steps,
        "n_draft_steps_source": "engine" if tally.steps_are_counted else "derived",
        "mean_accepted_length": tally.mean_accepted_length,
        "tokens_per_second": tally.tokens_per_second,
        "prefill_tokens_per_second": tally.prefill_tokens_per_second,
        "first_token_ms": tally.first_token_ms,
        "requests_wall_s": tally.wall_s,
        "stops": dict(tally.stops),
    }


def _sample_json(sample: Sample) -> dict[str, Json]:
    return {
        "repeat": sample.repeat,
        "slot": sample.slot,
        "prompt": sample.prompt,
        "category": sample.category,
        **asdict(sample.result),
    }


@dataclass(frozen=True, slots=True)
class _RawEngine:
    label: str


@dataclass(frozen=True, slots=True)
class _RawHead:
    label: str
    file: FileFacts | None
    head_sha256: str | None
    types: dict[str, int]


@dataclass(frozen=True, slots=True)
class _RawSettings:
    n_predict: int
    repeats: int
    seed: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Raw:
    """What is read of a document. arms: one by one, so that an error names the arm."""

    mtpgraft: str
    started_at: str
    wall_s: float
    model: FileFacts
    heads: tuple[_RawHead, ...]
    engines: tuple[_RawEngine, ...]
    host: HostInfo
    suite: Suite
    settings: _RawSettings
    arms: tuple[dict[str, object], ...]
    notes: tuple[str, ...] = ()
    cut_short: str = ""
    sweep: tuple[Trial, ...] = ()


@dataclass(frozen=True, slots=True)
class _RawArm:
    name: str
    engine: str
    head: str
    as_it_runs: bool
    launch: LaunchSpec
    n_threads: int | None
    wall_s: tuple[float, ...]
    vram: VramUse | None
    command: tuple[str, ...]
    samples: tuple[dict[str, object], ...]


@dataclass(frozen=True, slots=True)
class _RawSample:
    repeat: int
    prompt: str
    category: str
    slot: int


def _arm(item: dict[str, object], file: object, where: str) -> ArmResult:
    raw = decode(_RawArm, item, file, where)
    if raw.launch.n_parallel < 1:
        raise InputError("has no slots", file=file, where=f"{where}.launch.n_parallel", found=raw.launch.n_parallel)
    arm = Arm(raw.name, raw.launch, raw.engine, raw.head, raw.as_it_runs)
    samples = []
    for number, sample in enumerate(raw.samples):
        at = f"{where}.samples[{number}]"
        of = decode(_RawSample, sample, file, at)
        result = decode(CompletionResult, sample, file, at)
        if of.repeat < 0:
            raise InputError("is before the first repeat", file=file, where=f"{at}.repeat", found=of.repeat)
        samples.append(Sample(of.repeat, of.prompt, of.category, result, of.slot))
    return ArmResult(arm, raw.n_threads, tuple(samples), raw.wall_s, raw.vram, raw.command)


def _checked(document: object, file: object) -> Mapping[str, object]:
    hint = "give a file that `mtpgraft bench --save` wrote"
    if not isinstance(document, dict) or "schema_version" not in document or "arms" not in document:
        raise InputError("is not a bench result", file=file, hint=hint)
    if document["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            "has a schema that this version cannot read",
            file=file, where=".schema_version", expected=SCHEMA_VERSION, found=document["schema_version"], hint=hint,
        )  # fmt: skip
    return document


def _object(value: Json) -> Mapping[str, Json]:
    assert isinstance(value, Mapping)
    return value


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value
