"""Mends what an audit found: `repair` is the way in."""

from __future__ import annotations

from mtpgraft.repair.run import Repaired, RepairOptions, repair

__all__ = ["RepairOptions", "Repaired", "repair"]
