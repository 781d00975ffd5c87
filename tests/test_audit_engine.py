"""What the rules say about llama.cpp, shown by llama.cpp: each broken file refused, crashed on or silently run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import broken
from tests.broken import QWEN, head_data
from tests.conftest import TRAINED
from tests.engine import load_and_draft, load_only, refusal
from tests.test_head import from_file

# name: what is said without draft-mtp (None: it loads and runs), and with it. All at b11549.
SAID: dict[str, tuple[str | None, str]] = {
    "truncated": ("not within the file bounds", "not within the file bounds"),
    "corrupt": ("", ""),
    "gaps": ("", "has offset"),
    "dropped": (None, "doesn't contain MTP layers"),
    "declared": (None, "GGML_ASSERT(layer.nextn.eh_proj"),
    "orphan": ("wrong number of tensors", "wrong number of tensors"),
    "orphan-behind": ("wrong number of tensors", "wrong number of tensors"),
    "moved": ("", ""),
    "no-eh_proj": (None, "GGML_ASSERT(layer.nextn.eh_proj"),
    "no-enorm": ("'blk.2.nextn.enorm.weight' not found", "not found"),
    "no-attn_q": (None, "'blk.2.attn_q.weight' not found"),
    "wrong-shape": ("has wrong shape", "has wrong shape"),
    "short-array": ("has wrong array length", "has wrong array length"),
    "two-blocks": (None, "n_layer_nextn == 1"),
    "strange-tensor": ("", "wrong number of tensors"),
    "other-names": ("wrong number of tensors", "wrong number of tensors"),
}


@pytest.mark.parametrize("name", SAID)
def test_llama_cpp_does_what_the_rule_says(tmp_path: Path, name: str) -> None:
    path = broken.write(tmp_path, name)
    plain, drafting = SAID[name]
    if plain is None:
        load_only(path)
    else:
        assert any(plain in line for line in refusal(path))
    assert any(drafting in line for line in refusal(path, n_max=1))


def test_block_count_not_raised_skips_a_trunk_layer(tmp_path: Path) -> None:
    """The model is not the same any more: it aborts here, where the only attention layer is the one that is skipped."""
    assert refusal(broken.write(tmp_path, "not-raised"))


def test_a_sidecar_as_the_model_crashes() -> None:
    assert any("SIGSEGV" in line for line in refusal(QWEN / "mtp.gguf"))


def test_dead_and_unshifted_heads_load_and_are_never_accepted(tmp_path: Path) -> None:
    trained = from_file(TRAINED / "donor-bf16.gguf")
    good = load_and_draft(TRAINED / "donor-bf16.gguf", grammar=None, n_predict=48)
    assert good.draft_n_accepted > 0.3 * good.draft_n
    (tmp_path / "raw.gguf").write_bytes(broken.shifted(trained, -1.0, 4).bytes())
    raw = load_and_draft(tmp_path / "raw.gguf", grammar=None, n_predict=48)
    assert raw.draft_n_accepted <= 0.05 * raw.draft_n
    (tmp_path / "zero.gguf").write_bytes(head_data(lambda d: bytes(len(d)), "eh_proj").bytes())
    load_and_draft(tmp_path / "zero.gguf")
