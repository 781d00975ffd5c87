"""The result of a bench as one value, and its JSON form (schema_version 1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mtpgraft.bench.engine import EngineInfo, Json
from mtpgraft.bench.host import HostInfo
from mtpgraft.bench.metrics import ArmResult, Difference, Sample, Spread, Tally, differences, speed_up
from mtpgraft.bench.protocol import BenchPlan

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file that took part, without its folder. sha256: None when the file was too large to hash on the way."""

    name: str
    n_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class BenchResult:
    """arms: in the plan's order, so `arms[0]` is off. started_at: ISO 8601, UTC."""

    plan: BenchPlan
    arms: tuple[ArmResult, ...]
    engine: EngineInfo
    host: HostInfo
    model: FileFacts
    sidecar: FileFacts | None
    started_at: str
    wall_s: float
    mtpgraft_version: str

    @property
    def off(self) -> ArmResult:
        return self.arms[0]

    @property
    def on(self) -> tuple[ArmResult, ...]:
        return self.arms[1:]

    @property
    def drafted_anything(self) -> bool:
        """False is a finding (exit code 1): the engine ran and MTP did nothing."""
        return any(arm.drafted for arm in self.on)

    @property
    def n_prompts(self) -> int:
        return len(self.plan.suite.prompts)

    @property
    def fastest(self) -> ArmResult:
        """The arm with the highest median decode speed; `off` when no arm beats it."""

        def speed(arm: ArmResult) -> float:
            spread = arm.tokens_per_second
            return spread.median if spread else 0.0

        return max(self.arms, key=speed)

    def speed_up(self, arm: ArmResult) -> Spread | None:
        """1.0 is the off arm's speed."""
        return speed_up(arm, self.off)

    def differences(self, arm: ArmResult) -> tuple[Difference, ...]:
        """One per prompt whose greedy text is not the off arm's. Batching may flip a near-tie: reported, no failure."""
        return differences(arm, self.off)

    def n_equal(self, arm: ArmResult) -> int:
        """Prompts, of `n_prompts`, whose greedy text equals the off arm's in every repeat."""
        return self.n_prompts - len(self.differences(arm))

    def to_json(self) -> dict[str, Json]:
        """Every figure, every raw sample, and what is needed to run it again."""
        plan, launch = self.plan, self.plan.arms[0].launch
        return {
            "schema_version": SCHEMA_VERSION,
            "mtpgraft": self.mtpgraft_version,
            "started_at": self.started_at,
            "wall_s": self.wall_s,
            "model": asdict(self.model),
            "sidecar": None if self.sidecar is None else asdict(self.sidecar),
            "engine": asdict(self.engine),
            "host": asdict(self.host),
            "suite": {
                "name": plan.suite.name,
                "shape": plan.suite.shape,
                "hash": plan.suite.hash,
                "n_prompts": self.n_prompts,
            },
            "settings": {
                "n_predict": plan.n_predict,
                "repeats": plan.repeats,
                "seed": plan.seed,
                "temperature": plan.warm_up.temperature,
                "cache_prompt": plan.warm_up.cache_prompt,
                "n_ctx": launch.n_ctx,
                "n_parallel": launch.n_parallel,
                "n_threads": self.off.n_threads,
                "extra": dict(launch.extra),
            },
            "drafted_anything": self.drafted_anything,
            "fastest": self.fastest.arm.name,
            "arms": [self._arm_json(arm) for arm in self.arms],
        }

    def _arm_json(self, arm: ArmResult) -> dict[str, Json]:
        speed, prefill, gain = arm.tokens_per_second, arm.prefill_tokens_per_second, self.speed_up(arm)
        differing = self.differences(arm)
        return {
            "name": arm.arm.name,
            "n_max": arm.arm.n_max,
            "p_min": arm.arm.p_min,
            **_tally_json(arm.total),
            "tokens_per_second_spread": None if speed is None else asdict(speed),
            "prefill_tokens_per_second_spread": None if prefill is None else asdict(prefill),
            "speed_up": None if gain is None else asdict(gain),
            "greedy_equal": {
                "n_prompts": self.n_prompts,
                "n_equal": self.n_prompts - len(differing),
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
    }


def _sample_json(sample: Sample) -> dict[str, Json]:
    return {
        "repeat": sample.repeat,
        "prompt": sample.prompt,
        "category": sample.category,
        **asdict(sample.result),
    }
