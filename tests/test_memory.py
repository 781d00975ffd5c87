"""Peak resident memory of every command that touches a model, on files far larger than it may be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bigmodel import make_big_base
from tests.conftest import TRAINED, sha256

DONOR = TRAINED / "donor-bf16.gguf"
LIMIT_KB = 150_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in kB, sparse files")


def peak_kb(*args: object, expect: int = 0) -> int:
    """Peak resident memory of one mtpgraft command, started by a small process: a child inherits its parent's peak."""
    program = (
        "import resource, subprocess, sys\n"
        "program = [sys.executable, '-m', 'mtpgraft', *sys.argv[1:]]\n"
        "code = subprocess.run(program, stdout=subprocess.DEVNULL).returncode\n"
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)], capture_output=True, text=True, timeout=1200, check=True
    )
    code, peak = done.stdout.split()
    assert int(code) == expect, done.stderr
    return int(peak)


def all_commands(folder: Path, base: Path) -> dict[str, int]:
    """Peak in kB of each command, on a base and its graft."""
    out, back, head = folder / "out.gguf", folder / "back.gguf", folder / "head.gguf"
    peaks = {
        "inspect": peak_kb("inspect", base),
        "graft": peak_kb("graft", base, DONOR, "-o", out),
        "verify": peak_kb("verify", out, "--base", base, "--donor", DONOR),
        "extract": peak_kb("extract", out, "-o", head),
        "strip": peak_kb("strip", out, "-o", back),
    }
    assert back.stat().st_size == base.stat().st_size
    peaks["graft in place"] = peak_kb("graft", back, DONOR, "--in-place")
    peaks["strip in place"] = peak_kb("strip", back, "--in-place")
    return peaks


def test_500_mb(tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    make_big_base(base, 5 * 10**8, 300, sparse=True)
    peaks = all_commands(tmp_path, base)
    assert max(peaks.values()) < LIMIT_KB, peaks
    # holes stay holes: a graft of a sparse file takes no more room than its data
    assert (tmp_path / "out.gguf").stat().st_blocks * 512 < 20 * 10**6


def test_20_000_tensors(tmp_path: Path) -> None:
    base, out = tmp_path / "base.gguf", tmp_path / "out.gguf"
    make_big_base(base, 20_000 * 8704, 20_000)
    peaks = [peak_kb("graft", base, DONOR, "-o", out), peak_kb("strip", out, "--in-place")]
    assert max(peaks) < LIMIT_KB, peaks
    assert sha256(out) == sha256(base)


@pytest.mark.slow
def test_20_000_tensors_through_every_command(tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    make_big_base(base, 20_000 * 8704, 20_000)
    peaks = all_commands(tmp_path, base)
    print(peaks)
    assert max(peaks.values()) < LIMIT_KB, peaks
    assert sha256(tmp_path / "back.gguf") == sha256(base)


@pytest.mark.slow
def test_60_gb(tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    make_big_base(base, 60 * 10**9, 1000, sparse=True)
    peaks = all_commands(tmp_path, base)
    print(peaks)
    assert max(peaks.values()) < LIMIT_KB, peaks


def test_conversion_does_not_grow_with_the_tensor() -> None:
    """A tensor of 512 MB, through convert, inside a process whose peak is measured."""
    program = (
        "import tempfile, os\n"
        "from pathlib import Path\n"
        "from mtpgraft.quantize import convert\n"
        "from mtpgraft.source.local import LocalFile\n"
        "with tempfile.NamedTemporaryFile() as file:\n"
        "    os.truncate(file.name, 512 * 2**20)\n"
        "    n = sum(len(c) for c in convert(LocalFile.open(Path(file.name)), 0, (4096, 65536), 30, 8, n_threads=2))\n"
        "hwm = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(n, hwm.split()[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    n_bytes, peak = map(int, done.stdout.split())
    assert n_bytes == 4096 * 65536 // 32 * 34
    assert peak < LIMIT_KB
