"""Grafts on file systems that share blocks: Btrfs and XFS, in images that are mounted for the test (root, Linux)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtpgraft import surgery
from mtpgraft.compare import same_bytes
from mtpgraft.container import open_gguf
from mtpgraft.errors import TransientError
from mtpgraft.source.extents import shared_stretches
from mtpgraft.source.local import LocalFile
from mtpgraft.surgery import RunOptions
from mtpgraft.verify import verify_graft
from mtpgraft.write import disk
from tests.bigmodel import make_big_base
from tests.conftest import TRAINED, sha256

DONOR = TRAINED / "donor-bf16.gguf"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="images are mounted on Linux only"),
]


@pytest.fixture(scope="module", params=["btrfs", "xfs"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on a file system of that kind."""
    program = shutil.which(f"mkfs.{request.param}")
    if program is None:
        pytest.skip(f"mkfs.{request.param} is not installed")
    place = tmp_path_factory.mktemp(request.param)
    image, mounted = place / "image", place / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(10**9)
    subprocess.run([program, "-q", str(image)], check=True, capture_output=True)
    done = subprocess.run(
        ["mount", "-o", "loop", str(image), str(mounted)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"an image cannot be mounted here: {done.stderr.strip()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    path = folder / "base.gguf"
    make_big_base(path, 200 * 10**6, 50)
    os.sync()
    return path


def used_nbytes(folder: Path) -> int:
    os.sync()
    about = os.statvfs(folder)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


def test_the_trunk_is_shared_and_the_bytes_are_the_copys(
    folder: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, out, back = tmp_path / "copied.gguf", folder / "out.gguf", folder / "back.gguf"
    surgery.graft(base, DONOR, copied)  # to another file system: nothing can be shared
    cloned: list[int] = []
    real = disk.clone_range

    def counted(source_fd: int, source_offset: int, n_bytes: int, fd: int, offset: int) -> None:
        real(source_fd, source_offset, n_bytes, fd, offset)
        cloned.append(n_bytes)

    monkeypatch.setattr(disk, "clone_range", counted)
    before = used_nbytes(folder)
    surgery.graft(base, DONOR, out)
    assert sum(cloned) > 190 * 10**6
    assert used_nbytes(folder) - before < 20 * 10**6
    assert sha256(out) == sha256(copied)
    surgery.strip(out, back)
    assert sha256(back) == sha256(base)
    assert used_nbytes(folder) - before < 20 * 10**6
    for path in (out, back):
        path.unlink()


def test_a_byte_changed_after_sharing_is_found(folder: Path, base: Path) -> None:
    out = folder / "changed.gguf"
    surgery.graft(base, DONOR, out)
    with open_gguf(out) as result, open_gguf(base) as original:
        mine, theirs = (model.tensor_by_name["filler.7.weight"] for model in (result, original))
        place, shift = mine.offset + 1_000_000, mine.offset - theirs.offset
        assert verify_graft(result, original).ok
    a, b = LocalFile.open(out), LocalFile.open(base)
    n = 100 * 10**6
    shared = shared_stretches(a, place, b, place - shift, n)
    assert sum(end - start for start, end in shared) > n * 0.9
    with out.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    for _ in range(2):  # still in memory alone, and on the disk
        assert not same_bytes(a, place - 5000, b, place - 5000 - shift, n, lambda n_bytes: None)
        assert same_bytes(a, place + 1, b, place + 1 - shift, n, lambda n_bytes: None)
        with open_gguf(out) as result, open_gguf(base) as original:
            assert not verify_graft(result, original).ok
        os.sync()
    a.close()
    b.close()
    out.unlink()


def test_in_place(folder: Path, base: Path) -> None:
    """XFS moves blocks inside a file, Btrfs does not: there the copy that replaces it shares them."""
    model = folder / "model.gguf"
    shutil.copyfile(base, model)
    outcome = surgery.graft(model, DONOR, model, run=RunOptions(in_place=True))
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=True).stdout
    assert outcome.moved == (kind.strip() == "xfs")
    surgery.strip(model, model, run=RunOptions(in_place=True))
    assert sha256(model) == sha256(base)
    model.unlink()


def test_a_copy_that_shares_its_trunk_needs_no_room_for_it(folder: Path, base: Path, tmp_path: Path) -> None:
    full, out = folder / "full", folder / "out.gguf"
    with full.open("wb") as file:
        while (excess := shutil.disk_usage(folder).free - 100 * 10**6) > 0:  # removed files give their room back late
            os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, excess)
            os.sync()
    other = tmp_path / "base.gguf"
    shutil.copyfile(base, other)
    surgery.graft(base, DONOR, out)
    with open_gguf(out) as result, open_gguf(base) as original:
        assert verify_graft(result, original).ok
    out.unlink()
    with pytest.raises(TransientError, match="not enough room"):
        surgery.graft(other, DONOR, out)  # from another file system: nothing to share
    assert not [path for path in folder.iterdir() if path not in (base, full)]
    full.unlink()
