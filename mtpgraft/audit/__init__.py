"""Does this file, folder or repo have a working MTP head? Rules, verdicts, and the walks that apply them."""

from __future__ import annotations

from mtpgraft.audit.run import AuditOptions, audit, exit_code
from mtpgraft.audit.values import FAILING, AuditResult, Finding, Rule, Severity, Verdict

__all__ = [
    "FAILING",
    "AuditOptions",
    "AuditResult",
    "Finding",
    "Rule",
    "Severity",
    "Verdict",
    "audit",
    "exit_code",
]
