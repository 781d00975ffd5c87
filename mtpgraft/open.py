"""From what a user typed to an open model: model spec -> sources -> container."""

from __future__ import annotations

from pathlib import Path

from mtpgraft.container import GGUFModel, open_gguf


def open_model(spec: str | Path) -> GGUFModel:
    """Open the GGUF that `spec` names. The caller closes it.

    Raises InputError when nothing is there, InvalidFileError or TruncatedError for a bad header.
    """
    return open_gguf(Path(spec))
