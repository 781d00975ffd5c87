"""Fixtures of the tests that read remote models (pytest_plugins of test_remote.py and test_remote_trouble.py)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ggufbuild import ARR, STR, U32, Built
from tests.hub.reading import BIG_REPO, DONOR_REPO
from tests.hub.server import FakeHub


@pytest.fixture(scope="session")
def big_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 MB with holes: a token list as real ones (4.4 MB of header), a trunk of zeros, and a head of 39 MB."""
    path = tmp_path_factory.mktemp("big") / "Big-BF16.gguf"
    rng = random.Random(7)
    tokens = [f"token{i}" + "x" * (i % 5 + i // 20000) for i in range(120_000)]
    merges = [f"{i} me{i}" + "x" * (i // 30000) for i in range(100_000)]
    keys: list[tuple[str, int, object]] = [
        ("general.architecture", STR, "newarch"),
        ("newarch.block_count", U32, 3),
        ("newarch.nextn_predict_layers", U32, 1),
        ("tokenizer.ggml.tokens", ARR, (STR, tokens)),
        ("tokenizer.ggml.token_type", ARR, (U32, [1] * len(tokens))),
        ("tokenizer.ggml.merges", ARR, (STR, merges)),
        ("tokenizer.chat_template", STR, "{{ messages }}" * 500),
    ]
    width = 2560
    table = [
        ("token_embd.weight", (width, 12_800), 30),
        ("blk.0.attn_q.weight", (width, 2 * width), 30),
        ("blk.2.nextn.eh_proj.weight", (2 * width, width), 30),
        ("blk.2.nextn.enorm.weight", (width,), 0),
        ("blk.1.attn_q.weight", (width, 30_000), 30),
        ("blk.2.attn_q.weight", (width, width), 30),
    ]
    built = Built(keys, [])
    sizes = [(4 if type_id == 0 else 2) * shape[0] * (shape[1] if len(shape) > 1 else 1) for _, shape, type_id in table]
    built.tensors = [(*row, _Length(n)) for row, n in zip(table, sizes, strict=True)]  # type: ignore[list-item]
    header = built.header()
    at = built.padded(len(header))
    with path.open("wb") as out:
        out.write(header)
        for (name, _, _), n in zip(table, sizes, strict=True):
            if name.startswith("blk.2."):
                out.seek(at)
                out.write(rng.randbytes(n))
            at += built.padded(n)
        out.truncate(at)
    return path


class _Length(bytes):
    """Bytes of which only the length is asked."""

    def __new__(cls, n: int) -> _Length:
        made = super().__new__(cls)
        made.n = n  # type: ignore[attr-defined]
        return made

    def __len__(self) -> int:
        return int(self.n)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def shared_hub(trained: Path, big_model: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        donor = trained / "donor-bf16.gguf"
        readme = trained / "hf" / "README.md"
        config = trained / "hf" / "config.json"
        hub.add(DONOR_REPO, {"Donor-BF16.gguf": donor, "README.md": readme})
        quants = {f"Base-{q}.gguf": trained / f"base-{q}.gguf" for q in ("Q2_K", "Q4_K_M")}
        hub.add("fixtures/bases", {**quants, "mmproj-BF16.gguf": donor, "my notes/read me.md": readme})
        hub.add("fixtures/spaces", {"a folder/my model-BF16.gguf": donor})
        hub.add("fixtures/gated", {"x.gguf": donor}, gated=True)
        hub.add("fixtures/private", {"x.gguf": donor}, private=True)
        hub.add("fixtures/checkpoint", {"config.json": config, "model.safetensors": config})
        hub.add("fixtures/notes", {"README.md": readme})
        hub.add(BIG_REPO, {"Big-BF16.gguf": big_model})
        hub.etag(big_model)
        yield hub


@pytest.fixture
def hub(shared_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The Hub with its counters at zero, and an environment that knows no other: empty caches, no token."""
    shared_hub.reset()
    shared_hub.delay_s = 0
    for name, value in environment(shared_hub, tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return shared_hub


def environment(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hf-home"),
        "MTPGRAFT_CACHE": str(tmp_path / "cache"),
        "NO_PROXY": "*",
    }
