"""What a diagnosis is made of, as values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum

from mtpgraft.bench.engine import EngineInfo, Json
from mtpgraft.bench.metrics import ArmResult, BreakEven, Spread, Tally, speed_up
from mtpgraft.bench.protocol import BenchPlan
from mtpgraft.bench.result import BenchResult

SCHEMA_VERSION = 1


class Verdict(Enum):
    """unknown is never a failure: the run does not tell, or the question does not arise."""

    BAD = "bad"
    WARN = "warn"
    OK = "ok"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer. id: stable, for scripts. advice: what to do; empty where there is nothing to do."""

    id: str
    title: str
    expected: str
    observed: str
    verdict: Verdict
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """subject: name of the arm that is judged, "" where no arm could be. notes: control runs that were left out."""

    subject: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Check, ...]:
        """What is wrong, then what may be; each in the checks' order, which is the order of importance."""
        return tuple(
            check for verdict in (Verdict.BAD, Verdict.WARN) for check in self.checks if check.verdict is verdict
        )

    def check(self, check_id: str) -> Check:
        """Raises KeyError for an id that no check has."""
        for check in self.checks:
            if check.id == check_id:
                return check
        raise KeyError(check_id)

    def to_json(self) -> dict[str, Json]:
        return {
            "schema_version": SCHEMA_VERSION,
            "subject": self.subject,
            "checks": [{**asdict(check), "verdict": check.verdict.value} for check in self.checks],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class ControlPlan:
    """A run that would settle a check: two arms in turn, the subject as it was and the same with one thing changed.

    check: the id of the check that it settles. why: what it tells.
    """

    check: str
    why: str
    plan: BenchPlan


@dataclass(frozen=True, slots=True)
class Control:
    """A control run that was made. result: `arms[0]` is the subject again, `arms[1]` the changed one."""

    check: str
    result: BenchResult

    @property
    def change(self) -> Spread | None:
        """Speed of the changed arm over the subject's."""
        before, after = self.result.arms
        return speed_up(after, before)

    @property
    def is_seen(self) -> bool:
        return seen(self.change, self.result.plan.repeats)

    @property
    def changed(self) -> ArmResult:
        return self.result.arms[1]


@dataclass(frozen=True, slots=True)
class HeadFinding:
    """What the audit says of the head's file. id: the rule's."""

    id: str
    title: str
    observed: str
    fix: str


@dataclass(frozen=True, slots=True)
class HeadEvidence:
    """What the files say of the head, its data read too (`audit --deep`).

    related: the kinship of head and trunk (`kinship.Verdict`'s word); "unknown" where nothing tells. explanation: why.
    findings: rules that the head breaks, those of its data and its origin (MTP050 to MTP058).
    """

    related: str
    explanation: str
    findings: tuple[HeadFinding, ...] = ()


@dataclass(frozen=True, slots=True)
class Controls:
    """What is known beyond the result itself. notes: what was wanted and could not be had, and why."""

    runs: tuple[Control, ...] = ()
    head: HeadEvidence | None = None
    notes: tuple[str, ...] = ()

    def run(self, check: str) -> Control | None:
        return next((control for control in self.runs if control.check == check), None)


@dataclass(frozen=True, slots=True)
class Case:
    """A result as the checks see it.

    subject: the fastest arm that drafted and was really verified; else the fastest MTP arm; None without one.
    """

    result: BenchResult
    controls: Controls
    subject: ArmResult | None

    @classmethod
    def of(cls, result: BenchResult, controls: Controls) -> Case:
        return cls(result, controls, subject_of(result))

    @property
    def off(self) -> ArmResult | None:
        return None if self.subject is None else self.result.off_of(self.subject)

    @property
    def engine(self) -> EngineInfo:
        return self.result.engine if self.subject is None else self.result.engine_of(self.subject)

    @property
    def total(self) -> Tally | None:
        return None if self.subject is None else self.subject.total

    @property
    def acceptance(self) -> float | None:
        """None where nothing was drafted, or acceptance was synthetic."""
        if self.subject is None or self.subject.arm.is_synthetic:
            return None
        return self.subject.total.acceptance

    @property
    def gain(self) -> Spread | None:
        return None if self.subject is None else self.result.speed_up(self.subject)

    @property
    def is_slower(self) -> bool:
        """Slower than off in every repeat."""
        return self.gain is not None and self.gain.high < 1

    @property
    def on_cuda(self) -> bool:
        """By the device's name (`CUDA0`) or, where the backend lists it itself, its compute capability (`0: NVIDIA ...,
        compute capability 9.0`; b11434 ggml-cuda.cu). `Vulkan0: NVIDIA ...` is none."""
        return any("CUDA" in device or "compute capability" in device for device in self.engine.devices)

    def break_even(self) -> tuple[ArmResult, BreakEven] | None:
        """The subject's; else, as p_min hides the time of a step, that of the arm beside it that needs least."""
        if self.subject is None:
            return None
        engine = self.subject.arm.engine
        arms = [arm for arm in self.result.on if arm.arm.engine == engine and not arm.arm.p_min]
        found = [(arm, even) for arm in arms if (even := self.result.break_even(arm)) is not None]
        own = next((pair for pair in found if pair[0] is self.subject), None)
        return own or min(found, key=lambda pair: pair[1].acceptance, default=None)


Checker = Callable[[Case], Check]


def subject_of(result: BenchResult) -> ArmResult | None:
    def rank(arm: ArmResult) -> tuple[bool, bool, float]:
        return not arm.arm.is_synthetic, arm.drafted, arm.speed.median if arm.speed else 0.0

    return max(result.on, key=rank, default=None)


def seen(ratio: Spread | None, repeats: int) -> bool:
    """Whether a ratio of speeds is a difference: every repeat shows it, and there is more than one."""
    return ratio is not None and repeats > 1 and (ratio.low > 1 or ratio.high < 1)
