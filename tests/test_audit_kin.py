"""audit --deep against the upstream on the Hub: is the trunk the model's that it names, and is the head its own?"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from tests.conftest import TRAINED, Program
from tests.ggufbuild import STR, Built, set_key
from tests.hub.fixtures import environment
from tests.hub.server import FakeHub
from tests.test_head import from_file


@pytest.fixture
def audit(hub: FakeHub, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Verdict and rules of `audit --deep --upstream` for a file, asked of the loopback Hub."""
    hub.add("org/trained", TRAINED / "hf")
    env = environment(hub, tmp_path)

    def run(name: str, built: Built, *options: str) -> tuple[str, set[str]]:
        set_key(built, "general.base_model.0.repo_url", STR, "https://huggingface.co/org/trained")
        (tmp_path / name).write_bytes(built.bytes())
        done = Program(tmp_path)("audit", name, "--json", *options, expect=None, **env)
        (result,) = json.loads(done.stdout)["results"]
        return result["verdict"], {finding["rule"] for finding in result["findings"]}

    return run


def with_other_norms(built: Built, part: str) -> Built:
    """Other values in every norm whose name holds `part`: those of another model."""

    def changed(name: str, shape: tuple[int, ...], kind: int, data: bytes) -> tuple[str, tuple[int, ...], int, bytes]:
        if part not in name or not name.endswith("norm.weight") or kind != 0:
            return name, shape, kind, data
        n = len(data) // 4
        return name, shape, kind, struct.pack(f"<{n}f", *(0.6 + ((i * 7919) % 101) / 120 for i in range(n)))

    built.tensors = [changed(*tensor) for tensor in built.tensors]
    return built


def test_a_head_of_its_own_upstream_is_ok(audit, hub: FakeHub) -> None:  # type: ignore[no-untyped-def]
    hub.reset()
    assert audit("whole.gguf", from_file(TRAINED / "donor-bf16.gguf"), "--deep", "--upstream")[0] == "ok"
    assert hub.file_nbytes > 0


def test_a_head_of_another_model_is_mismatched(audit) -> None:  # type: ignore[no-untyped-def]
    built = with_other_norms(from_file(TRAINED / "donor-bf16.gguf"), "blk.4.")
    assert audit("head.gguf", built, "--deep", "--upstream") == ("mismatched", {"MTP056"})
    built = from_file(TRAINED / "donor-bf16.gguf")
    assert audit("unasked.gguf", with_other_norms(built, "blk.4."), "--deep")[0] == "ok"


def test_a_trunk_of_another_model_is_mismatched(audit) -> None:  # type: ignore[no-untyped-def]
    built = from_file(TRAINED / "donor-bf16.gguf")
    for part in ("blk.0.", "blk.1.", "blk.2.", "blk.3.", "output_norm"):
        built = with_other_norms(built, part)
    assert audit("trunk.gguf", built, "--deep", "--upstream") == ("mismatched", {"MTP056"})


def test_an_upstream_that_cannot_be_read_is_no_finding(audit) -> None:  # type: ignore[no-untyped-def]
    built = set_key(from_file(TRAINED / "donor-bf16.gguf"), "general.source.huggingface.repository", STR, "org/nothing")
    assert audit("whole.gguf", built, "--deep", "--upstream")[0] == "ok"


def test_a_head_that_changed_since_it_was_grafted_is_corrupt(audit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    graft = Program(tmp_path)
    graft("graft", TRAINED / "base-Q2_K.gguf", TRAINED / "donor-bf16.gguf", "-o", "grafted.gguf")
    assert audit("good.gguf", from_file(tmp_path / "grafted.gguf"), "--deep")[0] == "ok"
    built = from_file(tmp_path / "grafted.gguf")
    name, shape, kind, data = built.tensors[-10]
    built.tensors[-10] = (name, shape, kind, data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert audit("damaged.gguf", built, "--deep") == ("corrupt", {"MTP058"})
    assert audit("unread.gguf", built)[0] == "ok"
