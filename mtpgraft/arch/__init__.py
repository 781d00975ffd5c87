"""Per-architecture facts as data. `spec_for(name)` is the one way in."""

from __future__ import annotations

from mtpgraft.arch.registry import all_specs, spec_for
from mtpgraft.arch.spec import (
    Alternative,
    ArchSpec,
    ArrayRule,
    BuildNote,
    GraphSupport,
    HeadTensor,
    LoadPolicy,
    Need,
)

__all__ = [
    "Alternative",
    "ArchSpec",
    "ArrayRule",
    "BuildNote",
    "GraphSupport",
    "HeadTensor",
    "LoadPolicy",
    "Need",
    "all_specs",
    "spec_for",
]
