"""The promise, from the command line: a head from the Hub onto a local base, without the model."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from mtpgraft.container import open_gguf
from mtpgraft.kinship import Verdict, kinship
from tests.conftest import TINY, TRAINED, Program
from tests.engine import load_and_draft
from tests.hub.fixtures import environment
from tests.hub.model import OTHER_TOKEN, TOKEN
from tests.hub.server import FakeHub

BASE = TRAINED / "base-Q2_K.gguf"


@pytest.fixture
def run(hub: FakeHub, tmp_path: Path) -> Program:
    """The program, talking to the loopback Hub through HF_ENDPOINT."""
    hub.add("fixtures/trained-hf", TRAINED / "hf")
    env = environment(hub, tmp_path)

    class Remote(Program):
        def __call__(self, *args: object, expect: int | None = 0, **more: str):  # type: ignore[no-untyped-def]
            return super().__call__(*args, expect=expect, **{**env, **more})

    return Remote(tmp_path)


def head_nbytes() -> int:
    """Bytes of the head's tensors in the checkpoint."""
    raw = (TRAINED / "hf" / "model.safetensors").read_bytes()
    (n,) = struct.unpack_from("<Q", raw)
    spans = [v["data_offsets"] for k, v in json.loads(raw[8 : 8 + n]).items() if k.startswith("mtp.")]
    return sum(end - begin for begin, end in spans)


def test_graft_from_a_safetensors_repo(run: Program, hub: FakeHub, tmp_path: Path) -> None:
    hub.reset()
    done = run("graft", BASE, "hf:fixtures/trained-hf", "-o", "out.gguf")
    assert "fetched" in done.stderr
    load_and_draft(tmp_path / "out.gguf", grammar=None)
    header = 16 * 1024  # of a checkpoint this small
    small_files = sum((TRAINED / "hf" / name).stat().st_size for name in ("config.json",))
    assert hub.file_nbytes <= 1.02 * head_nbytes() + header + small_files + 600_000
    run("verify", "out.gguf", "--base", BASE, "--donor", TRAINED / "donor-bf16.gguf")
    hub.reset()
    run("graft", BASE, "fixtures/trained-hf", "-o", "again.gguf")
    assert hub.file_nbytes == 0
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "out.gguf").read_bytes()
    with open_gguf(tmp_path / "out.gguf") as model:
        assert (model.text("mtpgraft.donor") or "").startswith("fixtures/trained-hf")


def test_graft_from_a_gguf_repo_and_the_cache_command(run: Program, hub: FakeHub, tmp_path: Path) -> None:
    run("graft", BASE, "hf:fixtures/donor", "-o", "out.gguf")
    load_and_draft(tmp_path / "out.gguf", grammar=None)
    listed = json.loads(run("cache", "ls", "--json").stdout)
    assert [entry["kind"] for entry in listed["entries"]].count("head") == 1
    assert "head" in run("cache", "ls").stdout
    hub.reset()
    offline = run("graft", BASE, "hf:fixtures/donor", "-o", "again.gguf", HF_HUB_OFFLINE="1", expect=None)
    assert hub.requests() == []
    assert offline.returncode in (0, 2)
    run("cache", "rm")
    assert json.loads(run("cache", "ls", "--json").stdout)["entries"] == []


def test_a_dry_run_reads_headers_only(run: Program, hub: FakeHub, tmp_path: Path) -> None:
    for number, donor in enumerate(("hf:fixtures/donor", "hf:fixtures/trained-hf", str(TRAINED / "hf"))):
        out = f"out{number}.gguf"
        planned = json.loads(run("graft", BASE, donor, "-o", out, "--dry-run", "--json").stdout)
        assert planned["verified"] is None
        assert len(planned["head"]) == 15
        done = json.loads(run("graft", BASE, donor, "-o", out, "--json").stdout)
        load_and_draft(tmp_path / out, grammar=None)
        assert planned["outputs"][0]["nbytes"] == pytest.approx(done["outputs"][0]["nbytes"], abs=4096)
        assert planned["key_changes"] == done["key_changes"]
    assert not [p for p in tmp_path.iterdir() if "mtpgraft-tmp" in p.name]


def test_inspect_and_extract_take_every_kind(run: Program, hub: FakeHub, tmp_path: Path) -> None:
    for spec in ("hf:fixtures/donor", "hf:fixtures/trained-hf", TRAINED / "hf"):
        shown = json.loads(run("inspect", spec, "--json").stdout)
        assert (shown["architecture"], shown["n_head_blocks"]) == ("qwen35", 1)
        assert "qwen35" in run("inspect", spec, "-v").stdout
    run("extract", "hf:fixtures/trained-hf", "-o", "a.gguf", "--type", "q8_0")
    run("extract", TRAINED / "hf", "-o", "b.gguf", "--type", "q8_0")
    run("extract", TRAINED / "donor-bf16.gguf", "-o", "c.gguf", "--type", "q8_0")
    digests = set()
    for name in ("a", "b", "c"):
        with open_gguf(tmp_path / f"{name}.gguf") as model:
            digests.add(model.text("mtpgraft.head_sha256"))
            with open_gguf(BASE) as base:
                assert kinship(base, model).verdict is Verdict.SAME
    assert len(digests) == 1


def test_errors_are_clear(run: Program, hub: FakeHub, tmp_path: Path) -> None:
    for args, says in (
        (["inspect", "hf:fixtures/nothing"], "fixtures/nothing"),
        (["inspect", "hf:fixtures/gated"], "gated"),
        (["inspect", "hf:fixtures/notes"], "no GGUF"),
        (["graft", "hf:fixtures/bases:Q2_K", "hf:fixtures/donor", "-o", "x.gguf"], "hf download"),
        (["extract", "hf:fixtures/trained-hf", "-o", "x.gguf", "--as", "sidecar"], "tokenizer"),
        (["inspect", TRAINED / "donor-bf16.gguf", "--max-header", "1k"], "cap"),
        (["inspect", "hf:fixtures/donor", "--max-header", "soon"], "size"),
        (["graft", BASE, TINY / "glm4moe" / "hf", "-o", "x.gguf"], "architecture"),
    ):
        done = run(*args, expect=2)
        assert says in done.stderr, (args, done.stderr)
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.gguf").exists()
    run("graft", BASE, "hf:fixtures/donor", "-o", BASE, "--dry-run", expect=2)


def test_another_models_donor_is_refused_by_its_norms(run: Program, tmp_path: Path) -> None:
    raw = bytearray((TRAINED / "donor-bf16.gguf").read_bytes())
    with open_gguf(TRAINED / "donor-bf16.gguf") as model:
        for tensor in model.tensors:
            if tensor.name.endswith("norm.weight") and tensor.type_id == 0:
                n = tensor.n_elements
                values = [((i * 2654435761) % 1000) / 500 for i in range(n)]
                struct.pack_into(f"<{n}f", raw, tensor.offset, *values)
    (tmp_path / "other.gguf").write_bytes(raw)
    done = run("graft", BASE, "other.gguf", "-o", "x.gguf", expect=2)
    assert "not the same model" in done.stderr
    done = run("graft", BASE, "other.gguf", "-o", "x.gguf", "--allow-mismatch")
    assert "warning" in done.stderr
    load_and_draft(tmp_path / "x.gguf", grammar=None)


@pytest.mark.parametrize("token", [TOKEN, OTHER_TOKEN], ids=["accepted", "refused"])
def test_the_token_is_never_shown(run: Program, hub: FakeHub, tmp_path: Path, token: str) -> None:
    """Not on success, in errors, in JSON, in what is written, and not in huggingface_hub's own logging."""
    known = {"HF_TOKEN": token, "HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "PYTHONWARNINGS": "always"}
    said = ""
    for args in (
        ("inspect", "hf:fixtures/gated", "--json"),
        ("audit", "hf:fixtures/private", "hf:fixtures/gated", "--json"),
        ("audit", "hf:fixtures/gated", "--out", "census.jsonl"),
        ("graft", BASE, "hf:fixtures/private", "-o", "out.gguf", "--json"),
        ("inspect", "hf:fixtures/no-such-repo"),
        ("inspect", f"{hub.endpoint}/fixtures/gated/resolve/main/none.gguf"),
    ):
        done = run(*args, expect=None, **known)
        said += done.stdout + done.stderr
    assert "fixtures/gated" in said
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert token not in said
    assert not [path for path in written if token.encode() in path.read_bytes()]
