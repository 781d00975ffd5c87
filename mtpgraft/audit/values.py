"""Verdicts, rules and findings: what an audit says, as values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum


class Verdict(Enum):
    """What is the matter with a model's head, in one word. In the order in which one outranks another."""

    CORRUPT = "corrupt"
    TRUNCATED = "truncated"
    DECLARED_MISSING = "declared-missing"
    ORPHAN = "orphan"
    PARTIAL = "partial"
    UNSUPPORTED = "unsupported"
    MISMATCHED = "mismatched"
    DEAD = "dead"
    NORM_SUSPECT = "norm-suspect"
    UPSTREAM_HEADLESS = "upstream-headless"
    DROPPED = "dropped"
    SIDECAR = "sidecar"
    LOW_QUANT = "low-quant"
    UNKNOWN = "unknown"
    NOT_MTP = "not-mtp"
    OK = "ok"


FAILING = frozenset(
    {
        *(Verdict.CORRUPT, Verdict.TRUNCATED, Verdict.DECLARED_MISSING, Verdict.ORPHAN, Verdict.PARTIAL),
        *(Verdict.UNSUPPORTED, Verdict.MISMATCHED, Verdict.DEAD, Verdict.NORM_SUSPECT),
        *(Verdict.UPSTREAM_HEADLESS, Verdict.DROPPED),
    }
)
"""Verdicts that make an audit end with exit code 1 unless `--fail-on` says otherwise. A low quantization is advice, a
sidecar is fine, and what could not be checked is never a failure."""


class Severity(Enum):
    """error: the head does not work. warning: it may not, or not as it could. note: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that can be wrong.

    verdict: of a file that breaks it; None where the rule does not touch the verdict.
    consequence: what llama.cpp does, with the builds. fix: a command with {file}, {out} and {donor} to fill in, or a
    sentence where no command mends it.
    """

    id: str
    title: str
    severity: Severity
    verdict: Verdict | None
    consequence: str
    fix: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a file breaks. evidence: keys, tensors with offsets, files; enough to look it up by hand."""

    rule: Rule
    expected: str
    observed: str
    evidence: tuple[str, ...] = ()
    consequence: str = ""
    fix: str = ""

    @property
    def verdict(self) -> Verdict | None:
        return self.rule.verdict


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What is known of one model.

    target: as the user gave it, or the file found under it. architecture, name: None where the header gave none.
    n_head_blocks, head_types: what is present. n_bytes: of all its files. fetched_nbytes: read over the network.
    error: why it could not be read (then the verdict is `unknown`), with its exit code.
    """

    target: str
    verdict: Verdict
    architecture: str | None = None
    n_head_blocks: int = 0
    head_types: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    n_bytes: int | None = None
    head_nbytes: int = 0
    fetched_nbytes: int = 0
    error: str | None = None
    error_code: int = 0


def overall(findings: Iterable[Finding], otherwise: Verdict) -> Verdict:
    """The verdict of a file with these findings: the one that outranks the others, or `otherwise`."""
    order = list(Verdict)
    found = {finding.verdict for finding in findings}
    return next((verdict for verdict in order if verdict in found), otherwise)
