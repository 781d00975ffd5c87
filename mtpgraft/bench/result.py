"""The result of a bench as one value, which everything after it reads: reports, the diagnosis, files."""

from __future__ import annotations

from dataclasses import dataclass

from mtpgraft.bench.engine import EngineInfo, Json
from mtpgraft.bench.host import HostInfo
from mtpgraft.bench.metrics import (
    ArmResult,
    BreakEven,
    Difference,
    Sample,
    Spread,
    break_even,
    category_speed_up,
    differences,
    prefill_ratio,
    speed_up,
)
from mtpgraft.bench.protocol import BenchPlan
from mtpgraft.bench.sweep import Trial


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file that took part, without its folder. sha256: None when the file was too large to hash on the way."""

    name: str
    n_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class HeadFacts:
    """A head that took part. label: as in `Arm.head`. file: None for the model's own head.

    head_sha256: `head.head_digest` of it, None where it was not computed. types: (type, number of tensors), sorted.
    """

    label: str
    file: FileFacts | None
    head_sha256: str | None
    types: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class BenchResult:
    """arms: in the plan's order. engines: in the order of `plan.engines`. started_at: ISO 8601, UTC.

    notes: what was skipped, and why. cut_short: why the run ended before its last repeat; "" when it did not. Only
    whole repeats are kept, and `plan.repeats` counts them. sweep: the trials by which a sweep chose these arms.
    """

    plan: BenchPlan
    arms: tuple[ArmResult, ...]
    engines: tuple[EngineInfo, ...]
    host: HostInfo
    model: FileFacts
    heads: tuple[HeadFacts, ...]
    started_at: str
    wall_s: float
    mtpgraft_version: str
    notes: tuple[str, ...] = ()
    cut_short: str = ""
    sweep: tuple[Trial, ...] = ()

    @property
    def engine(self) -> EngineInfo:
        return self.engines[0]

    def engine_of(self, arm: ArmResult) -> EngineInfo:
        return self.engines[self.plan.engines.index(arm.arm.engine)]

    @property
    def off(self) -> ArmResult | None:
        """The first engine's off arm."""
        return next((arm for arm in self.arms if arm.arm.is_off), None)

    def off_of(self, arm: ArmResult) -> ArmResult | None:
        """The off arm of the same engine; None for a running server, which has none."""
        return next((off for off in self.arms if off.arm.is_off and off.arm.engine == arm.arm.engine), None)

    @property
    def on(self) -> tuple[ArmResult, ...]:
        """All arms that may draft."""
        return tuple(arm for arm in self.arms if not arm.arm.is_off)

    @property
    def drafted_anything(self) -> bool:
        """False is a finding (exit code 1): the engine ran and MTP did nothing."""
        return any(arm.drafted for arm in self.on)

    @property
    def n_prompts(self) -> int:
        return len(self.plan.suite.prompts)

    @property
    def fastest(self) -> ArmResult:
        """The arm with the highest median speed; the earlier one of equals, so `off` when no arm beats it."""

        def speed(arm: ArmResult) -> float:
            spread = arm.speed
            return spread.median if spread else 0.0

        return max(self.arms, key=speed)

    def speed_up(self, arm: ArmResult) -> Spread | None:
        """1.0 is the speed of the same engine's off arm."""
        off = self.off_of(arm)
        return None if off is None else speed_up(arm, off)

    def category_speed_up(self, arm: ArmResult) -> dict[str, Spread]:
        off = self.off_of(arm)
        return {} if off is None else category_speed_up(arm, off)

    def prefill_ratio(self, arm: ArmResult) -> Spread | None:
        """Prefill speed over the same engine's off arm's."""
        off = self.off_of(arm)
        return None if off is None else prefill_ratio(arm, off)

    def break_even(self, arm: ArmResult) -> BreakEven | None:
        off = self.off_of(arm)
        return None if off is None else break_even(arm, off)

    def differences(self, arm: ArmResult) -> tuple[Difference, ...]:
        """One per prompt whose greedy text is not the off arm's. Batching may flip a near-tie: reported, no failure.
        None for synthetic arms: their text means nothing."""
        off = self.off_of(arm)
        return () if off is None or arm.arm.is_synthetic else differences(arm, off)

    def n_equal(self, arm: ArmResult) -> int | None:
        """Prompts, of `n_prompts`, whose greedy text equals the off arm's in every repeat; None: nothing to compare."""
        if self.off_of(arm) is None or arm.arm.is_synthetic:
            return None
        return self.n_prompts - len(self.differences(arm))

    def early_stops(self, arm: ArmResult) -> tuple[Sample, ...]:
        """Samples with fewer tokens than were asked for: figures of few tokens are noise."""
        return tuple(sample for sample in arm.samples if sample.result.n_predicted < self.plan.n_predict)

    def to_json(self) -> dict[str, Json]:
        """Every figure, every raw sample, and what is needed to run it again (`resultfile`)."""
        from mtpgraft.bench.resultfile import result_json

        return result_json(self)

    @classmethod
    def from_json(cls, document: object, file: object = None) -> BenchResult:
        """What `to_json` described, equal to the value it came from. Raises InputError (`resultfile`)."""
        from mtpgraft.bench.resultfile import result_from_json

        return result_from_json(document, file)
