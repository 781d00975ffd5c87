#!/usr/bin/env python3
"""Packs the tiny fixtures: fixtures/tiny/<model>/ (7 MB, not checked in) -> fixtures/tiny/models.tar.xz (under 3 MB).

The same folders give the same archive, byte for byte: names sorted, no times, no owners. tests/conftest.py unpacks it.

    python scripts/build_tiny_fixtures.py ... && python scripts/pack_tiny_fixtures.py
    python scripts/pack_tiny_fixtures.py --unpack    the other way, to look at them
"""

from __future__ import annotations

import argparse
import lzma
import tarfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "tiny"
ARCHIVE = FOLDER / "models.tar.xz"


def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without what differs from machine to machine."""
    info.mtime = info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o644
    return info


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unpack", action="store_true", help="unpack the archive into fixtures/tiny")
    if parser.parse_args().unpack:
        with tarfile.open(ARCHIVE) as tar:
            tar.extractall(FOLDER, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        return
    files = sorted(path for path in FOLDER.rglob("*") if path.is_file() and path.parent != FOLDER)
    if not files:
        raise SystemExit(f"{FOLDER} holds no models: run scripts/build_tiny_fixtures.py first")
    with (
        lzma.open(ARCHIVE, "wb", preset=9 | lzma.PRESET_EXTREME) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in (FOLDER / "manifest.json", *files):
            tar.add(path, arcname=str(path.relative_to(FOLDER)), filter=plain)
    print(f"{ARCHIVE.stat().st_size:,} bytes, {len(files) + 1} files")


if __name__ == "__main__":
    main()
