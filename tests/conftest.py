"""Fixtures that every test file shares."""

from __future__ import annotations

import atexit
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.hub.fixtures import big_model, hub, shared_hub

__all__ = ["big_model", "hub", "shared_hub"]  # fixtures, for every test module

ROOT = Path(__file__).resolve().parent.parent
TRAINED = ROOT / "fixtures" / "trained"
TINY_ARCHIVE = ROOT / "fixtures" / "tiny" / "models.tar.xz"


def _unpacked() -> Path:
    """The tiny models, unpacked for this run: 7 MB that are 1 MB in the repository."""
    folder = tempfile.TemporaryDirectory(prefix="mtpgraft-tiny-")
    atexit.register(folder.cleanup)
    with tarfile.open(TINY_ARCHIVE) as archive:
        archive.extractall(folder.name, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return Path(folder.name)


TINY = _unpacked()


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
