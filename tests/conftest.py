"""Fixtures that every test file shares."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAINED = ROOT / "fixtures" / "trained"
TINY = ROOT / "fixtures" / "tiny"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Program:
    """Runs `mtpgraft` as a user would, in a process of its own."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd

    def __call__(self, *args: object, expect: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "mtpgraft", *map(str, args)],
            cwd=self.cwd,
            capture_output=True,
            text=True,
            env={**os.environ, "NO_COLOR": "1", **env},
            timeout=120,
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture
def mtpgraft(tmp_path: Path) -> Program:
    """The command line, run in the test's own folder."""
    return Program(tmp_path)


@pytest.fixture(scope="session")
def trained() -> Path:
    """The folder of the trained fixture."""
    return TRAINED
