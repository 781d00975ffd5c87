"""The bundled suites, as data files beside this one, and the reading of any suite file (format: docs/bench.md)."""

from __future__ import annotations

from mtpgraft.bench.suites.read import SUITE_NAMES, builtin_suite, read_suite

__all__ = ["SUITE_NAMES", "builtin_suite", "read_suite"]
