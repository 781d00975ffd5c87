"""Pure plans of each operation. Nothing here writes; what `--dry-run` prints is what write/ executes."""

from __future__ import annotations

from mtpgraft.plan.extract import DONOR, SIDECAR, plan_extract
from mtpgraft.plan.graft import GraftOptions, plan_graft
from mtpgraft.plan.strip import plan_strip
from mtpgraft.plan.values import (
    ConvertTensor,
    CopyBytes,
    FilePlan,
    HeadRow,
    KeyChange,
    OutTensor,
    SurgeryPlan,
)

__all__ = [
    "DONOR",
    "SIDECAR",
    "ConvertTensor",
    "CopyBytes",
    "FilePlan",
    "GraftOptions",
    "HeadRow",
    "KeyChange",
    "OutTensor",
    "SurgeryPlan",
    "plan_extract",
    "plan_graft",
    "plan_strip",
]
