"""An audit as SARIF 2.1.0, which GitHub and other CI systems show as annotations (OASIS sarif-v2.1.0-os)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from mtpgraft import __version__
from mtpgraft.audit.rules import RULES
from mtpgraft.audit.values import AuditResult, Finding, Severity
from mtpgraft.report.surgery import Json

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}


def audit_sarif(results: Sequence[AuditResult]) -> dict[str, Json]:
    """What `mtpgraft audit --sarif` prints: one run, every rule that was met, one result per finding."""
    met = {finding.rule.id for result in results for finding in result.findings}
    rules: list[Json] = [
        {
            "id": rule.id,
            "shortDescription": {"text": rule.title},
            "fullDescription": {"text": rule.consequence or rule.title},
            "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        }
        for rule in RULES
        if rule.id in met
    ]
    found: list[Json] = [_result(result, finding) for result in results for finding in result.findings]
    driver: dict[str, Json] = {"name": "mtpgraft", "version": __version__, "rules": rules}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": found}]}


def _result(result: AuditResult, finding: Finding) -> Json:
    text = f"{finding.rule.title}: expected {finding.expected}, found {finding.observed}. {finding.consequence}"
    uri = _uri(result.target)
    # A model has no lines; some readers of SARIF (DefectDojo) take no result without one.
    location: Json = {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}
    return {
        "ruleId": finding.rule.id,
        "level": _LEVELS[finding.rule.severity],
        "message": {"text": f"{text} Fix: {finding.fix}"},
        "locations": [location],
        "partialFingerprints": {"model/v1": _fingerprint(uri)},
        "properties": {"verdict": result.verdict.value, "evidence": list(finding.evidence)},
    }


def _fingerprint(uri: str) -> str:
    """The same for the same model in the next run, by which GitHub tells a new alert from a known one."""
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


def _uri(target: str) -> str:
    from urllib.parse import quote

    path = target.replace("\\", "/").removeprefix("./")
    return quote(path.encode("utf-8", "surrogateescape"), safe="/:@._-")
