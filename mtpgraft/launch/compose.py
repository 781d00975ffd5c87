"""A docker compose service."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from mtpgraft.errors import UsageError
from mtpgraft.launch.command import LLAMA_CPP, Dialect, Start, arguments
from mtpgraft.modelspec import LocalSpec, parse_spec

IMAGE = "ghcr.io/ggml-org/llama.cpp:server-cuda"
"""llama.cpp's own (.devops/cuda.Dockerfile @ b11434): its entry point is llama-server, its port 8080."""
_CACHE = "/cache"


def compose_file(start: Start, dialect: Dialect) -> str:
    """A compose file with one service. Raises UsageError for what the image cannot do."""
    if dialect is not LLAMA_CPP:
        raise UsageError(f"there is no published image of {dialect.name} to name", expected="--engine llama.cpp")
    if start.rpc:
        raise UsageError("the published image has no RPC backend", expected="a plan without --rpc, or --systemd")
    mounts: dict[str, str] = {}
    inside = replace(
        start,
        model=_mounted(start.model, "/models", mounts),
        sidecar=None if start.sidecar is None else _mounted(start.sidecar, "/sidecar", mounts),
        host="0.0.0.0",
    )
    volumes = [
        f"      - type: bind\n        source: {_text(source)}\n        target: {target}\n        read_only: true"
        for source, target in mounts.items()
    ]
    environment = named = ""
    if not isinstance(parse_spec(start.model), LocalSpec):  # llama-server fetches it, and should do so once
        volumes.append(f"      - llama-cache:{_CACHE}")
        environment = f"    environment:\n      LLAMA_CACHE: {_CACHE}\n"
        named = "\nvolumes:\n  llama-cache:\n"
    lines = "\n".join(f"      - {_text(word)}" for word in arguments(inside, dialect))
    return f"""\
# Made by mtpgraft plan. To start it: docker compose up -d
services:
  llama-server:
    image: {IMAGE}
    command:
{lines}
{environment}    ports:
      - "127.0.0.1:{start.port}:{start.port}"
    volumes:
{chr(10).join(volumes)}
    restart: unless-stopped
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: all
              capabilities: [gpu]
{named}"""


def _mounted(text: str, target: str, mounts: dict[str, str]) -> str:
    """The model's path in the container; its folder is mounted, so that all shards of a set are there."""
    spec = parse_spec(text)
    if not isinstance(spec, LocalSpec):
        return text
    path = Path(spec.path).absolute()
    folder = str(path.parent)
    return f"{mounts.setdefault(folder, target)}/{path.name}"


def _text(text: str) -> str:
    """A YAML scalar (JSON is one), with compose's own `$` doubled."""
    return json.dumps(text.replace("$", "$$"), ensure_ascii=False)
