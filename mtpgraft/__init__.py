"""Surgery on the Multi-Token-Prediction (MTP, NextN) heads of GGUF models.

The library never prints and never exits. What `__all__` names is its public interface (examples: docs/library.md);
each name is imported when it is first used. docs/architecture.md shows the way through the code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mtpgraft import audit, repair
    from mtpgraft.api import extract, graft, prove, strip
    from mtpgraft.audit import AuditOptions, AuditResult, Finding, Verdict
    from mtpgraft.container import GGUFModel, open_gguf
    from mtpgraft.errors import (
        EngineDiedError,
        EngineError,
        ExitCode,
        InputError,
        InvalidFileError,
        MtpgraftError,
        RefusedError,
        TransientError,
        TruncatedError,
        UsageError,
    )
    from mtpgraft.head import Head, HeadState, find_head
    from mtpgraft.open import open_donor, open_model
    from mtpgraft.plan import GraftOptions, SurgeryPlan
    from mtpgraft.repair import Repaired, RepairOptions
    from mtpgraft.surgery import NotVerifiedError, Outcome, RunOptions
    from mtpgraft.verify import Check, VerifyReport

_MODULES = {
    "api": ("extract", "graft", "prove", "strip"),
    "audit": ("AuditOptions", "AuditResult", "Finding", "Verdict"),
    "container": ("GGUFModel", "open_gguf"),
    "errors": (
        *("EngineDiedError", "EngineError", "ExitCode", "InputError", "InvalidFileError", "MtpgraftError"),
        *("RefusedError", "TransientError", "TruncatedError", "UsageError"),
    ),
    "head": ("Head", "HeadState", "find_head"),
    "open": ("open_donor", "open_model"),
    "plan": ("GraftOptions", "SurgeryPlan"),
    "repair": ("RepairOptions", "Repaired"),
    "surgery": ("NotVerifiedError", "Outcome", "RunOptions"),
    "verify": ("Check", "VerifyReport"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_PACKAGES = ("audit", "repair")

__all__ = [
    "AuditOptions",
    "AuditResult",
    "Check",
    "EngineDiedError",
    "EngineError",
    "ExitCode",
    "Finding",
    "GGUFModel",
    "GraftOptions",
    "Head",
    "HeadState",
    "InputError",
    "InvalidFileError",
    "MtpgraftError",
    "NotVerifiedError",
    "Outcome",
    "RefusedError",
    "RepairOptions",
    "Repaired",
    "RunOptions",
    "SurgeryPlan",
    "TransientError",
    "TruncatedError",
    "UsageError",
    "Verdict",
    "VerifyReport",
    "audit",
    "extract",
    "find_head",
    "graft",
    "open_donor",
    "open_gguf",
    "open_model",
    "prove",
    "repair",
    "strip",
]


def __getattr__(name: str) -> object:
    """Import what is asked for: a program that only reads headers does not pay for what writes files."""
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
