"""Hostile files through the whole program, and beside llama.cpp: neither takes what the other refuses."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from mtpgraft.audit.census import read_census, run_census
from mtpgraft.audit.run import AuditOptions, audit
from mtpgraft.bench.suites.read import read_suite
from mtpgraft.container import open_gguf
from mtpgraft.container.checkpoint import open_checkpoint
from mtpgraft.container.gguf import MAX_HEADER_NBYTES
from mtpgraft.errors import InputError, InvalidFileError, MtpgraftError, TransientError
from mtpgraft.head import HeadState, find_head
from mtpgraft.hf import plan_extract_checkpoint
from mtpgraft.inplace.journal import Journal
from mtpgraft.jsontext import parse_json
from mtpgraft.plan import plan_extract, plan_strip
from mtpgraft.source import cache, transport
from mtpgraft.source.hub import files_from_tree
from mtpgraft.source.retries import RetryPolicy
from mtpgraft.source.url import open_url
from tests.conftest import ROOT, TINY, Program
from tests.engine import refusal
from tests.ggufbuild import ARR, STR, U32, Built, f32_tensor, llama_like, set_key
from tests.mutations import Model, mutations
from tests.test_container import HOSTILE
from tests.test_head import from_file

MODEL = Model()
MUTATIONS = mutations(MODEL)
# What llama.cpp and mtpgraft judge differently, and why that is meant.
ONLY_WE_LOAD = {
    "one tensor fewer": "a whole header; that a tensor of the architecture is missing is found when the model is built",
    "dimension 0": "a whole header; the shape is not the architecture's",
    "type 999": "types of other engines and of the future are copied as they are",
    "type of a removed format": "types of the past are copied as they are",
    "big-endian": "llama.cpp reads its machine's own byte order; mtpgraft reads and writes both",
}
ONLY_LLAMA_LOADS = {
    "a name without its NUL's rest twice": "llama.cpp takes the first of two keys that are one name up to the NUL; "
    "a file that says two things is refused",
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_llama_cpp_and_we_agree(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(MUTATIONS[name]())
    begin = time.perf_counter()
    try:
        with open_gguf(path) as model:
            find_head(model)
        we_load = True
    except MtpgraftError as error:
        assert error.exit_code == 2
        we_load = False
    assert time.perf_counter() - begin < 2
    try:
        refusal(path)
        llama_loads = False
    except AssertionError:
        llama_loads = True
    if name in ONLY_WE_LOAD:
        assert (we_load, llama_loads) == (True, False)
    elif name in ONLY_LLAMA_LOADS:
        assert (we_load, llama_loads) == (False, True)
    else:
        assert we_load == llama_loads


@pytest.mark.parametrize("case", ["empty", "2^63 tensors", "string longer than the file", "nested arrays"])
def test_the_program_says_one_line_and_exits_with_2(tmp_path: Path, mtpgraft: Program, case: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(HOSTILE[case][0])
    done = mtpgraft("inspect", path, expect=2)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    first, *others = done.stderr.splitlines()
    assert first.startswith("mtpgraft: ")
    assert all(line.startswith("  try: ") for line in others)
    assert case == "empty" or "offset" in first


def test_no_terminal_escape_reaches_the_terminal(tmp_path: Path, mtpgraft: Program) -> None:
    escape = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
    built = llama_like()
    built.keys[1] = ("general.name", STR, f"nice{escape}name")
    built.keys.append((f"key{escape}", U32, 1))
    built.tensors.append(f32_tensor("blk.1.nextn.eh\x1b[2J\u202e.weight", (64, 4)))
    path = tmp_path / "model.gguf"
    path.write_bytes(built.bytes())
    broken = tmp_path / "broken.gguf"
    raw = built.bytes()
    broken.write_bytes(raw[: len(raw) - 900])
    for args in (
        ("inspect", path),
        ("inspect", "-v", path),
        ("inspect", "--json", path),
        ("inspect", broken),
        ("strip", path, "-o", tmp_path / "out.gguf"),
        ("verify", path, "--base", path),
    ):
        done = mtpgraft(*args, expect=None)
        assert done.returncode in (0, 1, 2), done.stderr
        said = done.stdout + done.stderr
        for bad in ("\x1b", "\x07"):
            assert bad not in said, args
        if "--json" in args:
            assert json.loads(done.stdout)["name"] == f"nice{escape}name"
        else:
            assert "\x9b" not in said
            assert "\u202e" not in said


def test_an_error_is_one_line_whatever_a_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines\x1b[2J.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(MtpgraftError) as caught:
        open_gguf(path)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


CORPUS = Path(__file__).resolve().parent.parent / "fuzz" / "corpus"


@pytest.mark.parametrize("seed", sorted(path.name for path in CORPUS.iterdir()))
def test_the_fuzzers_corpus(seed: str, tmp_path: Path) -> None:
    """What the fuzzer does with an input, without the fuzzer; a crash that it finds joins the corpus."""
    try:
        with open_gguf(CORPUS / seed) as model:
            find_head(model)
    except MtpgraftError as error:
        assert error.exit_code == 2
        assert "\n" not in str(error)


# --- whole models whose keys lie ---------------------------------------------------------------------------------

QWEN = TINY / "qwen35"


def opened(tmp_path: Path, built: Built) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(built.bytes())
    return path


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("mtpgraft.undo.qwen35.block_count", ARR, (U32, [2])),
        ("mtpgraft.undo.qwen35.block_count", U32, 99),
        ("mtpgraft.undo.qwen35.block_count", U32, 0),
        ("mtpgraft.undo.added", ARR, (STR, ["qwen35.block_count"])),
        ("mtpgraft.undo.added", ARR, (STR, ["general.architecture"])),
        ("mtpgraft.undo.general.architecture", STR, "llama"),
    ],
)
def test_an_undo_record_that_cannot_be_true_is_refused(tmp_path: Path, name: str, kind: int, value: object) -> None:
    path = opened(tmp_path, set_key(from_file(QWEN / "whole.gguf"), name, kind, value))
    with open_gguf(path) as model, pytest.raises(InvalidFileError, match=r"mtpgraft\.undo\."):
        plan_strip(model, find_head(model), tmp_path / "out.gguf")


def test_an_undo_record_may_not_move_the_data(tmp_path: Path) -> None:
    built = set_key(from_file(QWEN / "whole.gguf"), "general.alignment", U32, 32)
    path = opened(tmp_path, set_key(built, "mtpgraft.undo.general.alignment", U32, 4096))
    with open_gguf(path) as model, pytest.raises(InvalidFileError, match=r"general\.alignment"):
        plan_strip(model, find_head(model), tmp_path / "out.gguf")


def test_a_key_name_that_is_no_text_is_restored_by_its_bytes(tmp_path: Path) -> None:
    """`\\xff` in the name's reading is four letters for one byte."""
    built = from_file(QWEN / "whole.gguf")
    built.keys += [(b"strange\xff", U32, 7), (b"mtpgraft.undo.strange\xff", U32, 8)]  # type: ignore[list-item]
    built.keys.append(("mtpgraft.undo.qwen35.block_count", U32, 2))
    with open_gguf(opened(tmp_path, built)) as model:
        keys = plan_strip(model, find_head(model), tmp_path / "out.gguf").files[0].keys
    restored = next(key for key in keys if key.name.startswith("strange"))
    assert (restored.scalar(), restored.n_items) == (8, 1)
    assert bytes(restored.record[-4:]) == struct.pack("<I", 8)


def test_a_vocabulary_that_no_key_can_hold(tmp_path: Path) -> None:
    built = from_file(QWEN / "whole.gguf")
    built.keys = [key for key in built.keys if "tokens" not in key[0]]
    built.tensors = [
        (n, (0, 2**62), k, b"") if n == "token_embd.weight" else (n, s, k, d) for n, s, k, d in built.tensors
    ]
    with open_gguf(opened(tmp_path, built)) as model:
        plan = plan_extract(model, find_head(model), tmp_path / "out.gguf")
    assert "mtpgraft.vocab_size" not in {key.name for key in plan.files[0].keys}


def test_norms_without_dimensions(tmp_path: Path) -> None:
    built = from_file(QWEN / "whole.gguf")
    built.tensors = [(n, (), k, d[:4]) if k == 0 and "norm" in n else (n, s, k, d) for n, s, k, d in built.tensors]
    (result,) = audit([str(opened(tmp_path, built))], AuditOptions(deep=True))
    assert result.verdict.value == "partial"


@pytest.mark.parametrize("name", ["blk.01.nextn.eh_proj.weight", "blk.0\u0661.x.weight", "blk.9.attn_norm.weight"])
def test_blocks_that_llama_cpp_does_not_count(tmp_path: Path, name: str) -> None:
    built = from_file(QWEN / "whole.gguf")
    built.tensors.append(f32_tensor(name, (8,)))
    with open_gguf(opened(tmp_path, built)) as model:
        head = find_head(model)
    assert head.state is (HeadState.PARTIAL if "blk.9" in name else HeadState.OK)
    assert name not in {tensor.name for tensor in head.tensors}


def test_rows_without_end(tmp_path: Path) -> None:
    built = from_file(QWEN / "whole.gguf")
    built.tensors.append(("blk.2.ffn_down.weight_x", (2**34,), 0, b""))
    raw = built.header()
    path = tmp_path / "sparse.gguf"
    path.write_bytes(raw)
    at = len(raw) + sum(built.padded(len(d)) for _, _, _, d in built.tensors) + 32 + 2**36
    os.truncate(path, at)
    with open_gguf(path) as model, pytest.raises(InvalidFileError, match=r"blk\.2\.ffn_down\.weight_x.*rows"):
        find_head(model)


def key_record(name: bytes, kind: int, body: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + body


@pytest.mark.parametrize(("what", "n_tensors", "n_keys"), [("more keys", 0, 2**16 + 1), ("more tensors", 2**16 + 1, 0)])
def test_more_entries_than_are_read(tmp_path: Path, what: str, n_tensors: int, n_keys: int) -> None:
    path = tmp_path / "many.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys))
    os.truncate(path, 2**30)
    with pytest.raises(InvalidFileError, match=what):
        open_gguf(path)


def test_a_header_near_the_cap_is_in_memory_once(tmp_path: Path, mtpgraft: Program) -> None:
    """One array of bytes that fills the header: resident memory stays below 200 MB, and nothing decodes it."""
    keys = key_record(b"general.architecture", 8, struct.pack("<Q", 6) + b"qwen35")
    keys += key_record(b"qwen35.block_count", 4, struct.pack("<I", 2))
    n = MAX_HEADER_NBYTES - len(keys) - 200
    keys += key_record(b"mtpgraft.undo.added", 9, struct.pack("<IQ", 0, n))
    path = tmp_path / "large.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 3) + keys)
    os.truncate(path, 24 + len(keys) + n)
    peak = mtpgraft_peak(mtpgraft, "inspect", path)
    assert peak < 200 * 2**20, peak
    with open_gguf(path) as model, pytest.raises(InvalidFileError, match=r"large\.gguf.*too long an array"):
        model.shards[0].key_by_name["mtpgraft.undo.added"].items()


def mtpgraft_peak(mtpgraft: Program, *args: object) -> int:
    """Peak resident bytes of one command."""
    code = (
        "import resource, subprocess, sys; subprocess.run([sys.executable, '-m', 'mtpgraft', *sys.argv[1:]], "
        "capture_output=True); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=True, cwd=mtpgraft.cwd
    )
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


def test_long_texts_are_cut(tmp_path: Path, mtpgraft: Program) -> None:
    path = opened(tmp_path, set_key(llama_like(), "general.name", STR, "n" * 5_000_000))
    assert len(mtpgraft("inspect", path).stdout) < 100_000
    path = opened(tmp_path, set_key(llama_like(), "general.architecture", STR, "a" * 5_000_000))
    done = mtpgraft("inspect", path, expect=2)
    assert len(done.stderr) < 2500
    assert "key general.architecture" in done.stderr


# --- JSON ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" + b"[]," * 3_000_000 + b"[]]", "too many values"),
        (b"[" + b"1," * 4_000_000 + b"1]", "too many values"),
        (b'["' + b"x" * 16_000_000 + "\U0001f600".encode() + b'"]', "too many values"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b"[1e999]", "too large a number"),
        (b"[-1e999]", "too large a number"),
        (b"[" + b"9" * 5000 + b"]", "too large a number"),
        (b"[NaN]", "not a JSON number"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"\xff", "offset 0"),
        (b"[1,\n2", "line 2"),
    ],
)
def test_json_that_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(InvalidFileError, match=says) as caught:
        parse_json(raw, "x.json")
    assert "x.json" in str(caught.value) and "\n" not in str(caught.value)


def test_json_that_is_taken() -> None:
    assert parse_json(b'["\\ud83d\\ude00", 1e308, 12345678901234567890]', "x") == [
        "\U0001f600",
        1e308,
        12345678901234567890,
    ]


CONFIG = json.loads((TINY / "qwen35" / "hf" / "config.json").read_text())


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("Qwen3_5ForConditionalGeneration", {"rope_parameters": {"partial_rotary_factor": 1e308}}),
        ("Qwen3_5ForConditionalGeneration", {"rope_parameters": {"partial_rotary_factor": -1}}),
        ("Qwen3_5ForConditionalGeneration", {"rope_parameters": {"partial_rotary_factor": [1]}}),
        ("Qwen3_5ForConditionalGeneration", {"num_hidden_layers": 2**31 - 1}),
        ("Qwen3_5ForConditionalGeneration", {"num_hidden_layers": True}),
        ("Qwen3_5ForConditionalGeneration", {"hidden_size": 10**200}),
        ("Qwen3_5ForConditionalGeneration", {"num_experts": 2**31 - 1, "num_hidden_layers": 10**9}),
        ("Qwen3_5ForConditionalGeneration", {"head_dim": "64"}),
    ],
)
def test_configs_that_lie(tmp_path: Path, architecture: str, changes: dict[str, object]) -> None:
    source = TINY / "qwen35" / "hf"
    config = {**CONFIG, "architectures": [architecture]}
    config["text_config"] = {**CONFIG["text_config"], **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    begin = time.perf_counter()
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(MtpgraftError) as caught:
        plan_extract_checkpoint(checkpoint, tmp_path / "out.gguf")
    assert caught.value.exit_code == 2
    assert time.perf_counter() - begin < 2


# --- what is no file, and files that are something else --------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_are_never_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for call in (
        lambda: audit([f"@{pipe}"]),
        lambda: read_suite(pipe),
        lambda: run_census([], pipe, AuditOptions(), lambda _: {}),
        lambda: read_census(pipe),
    ):
        with pytest.raises(InputError):
            call()


def test_a_list_with_an_endless_line(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("model.gguf\n" + "x" * 100_000)
    with pytest.raises(InputError, match="line 2"):
        audit([f"@{path}"])


def test_links_in_loops_and_names_that_no_file_has(tmp_path: Path, mtpgraft: Program) -> None:
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    for target in ("loop.gguf", "n" * 300 + ".gguf", "d/" * 3000 + "x.gguf", "~nobody-here/x.gguf"):
        for command in ("inspect", "audit", "report", "recover"):
            done = mtpgraft(command, target, expect=2)
            assert "bug" not in done.stderr
    assert mtpgraft("audit", ".", expect=2).stderr


def test_a_census_is_only_changed_by_a_census(tmp_path: Path, mtpgraft: Program) -> None:
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b'{"target": "x", "results": []}\n{"target": "y", "resul')
    before = cut.read_bytes()
    assert read_census(cut).n_targets == 1
    assert cut.read_bytes() == before
    other = tmp_path / "other.json"
    other.write_bytes(b'{"something": "else"}')  # without a line's end
    done = mtpgraft("audit", QWEN / "whole.gguf", "--out", other, expect=2)
    assert "is no census" in done.stderr
    assert other.read_bytes() == b'{"something": "else"}'


# --- records of mtpgraft's own ---------------------------------------------------------------------------------------

ABOUT = {
    "operation": "graft",
    "old_nbytes": 1000,
    "new_nbytes": 2000,
    "shift": 0,
    "old_header_nbytes": 10,
    "new_header_nbytes": 0,
    "sampled_nbytes": 100,
    "samples": "0" * 64,
}


@pytest.mark.parametrize(
    "change",
    [
        {"operation": "x"},
        {"operation": ["graft"]},
        {"old_nbytes": -1},
        {"old_nbytes": 0},
        {"new_nbytes": "x"},
        {"shift": None},
        {"old_header_nbytes": 11},
        {"old_header_nbytes": 0},
        {"new_header_nbytes": 1.5},
        {"sampled_nbytes": 2**62},
        {"samples": 3},
    ],
)
def test_a_journal_whose_numbers_cannot_be_true(change: dict[str, object]) -> None:
    def encoded(about: object) -> bytes:
        body = b"mtpgraft journal 1\n" + json.dumps(about).encode() + b"\n" + b"h" * 10
        return body + hashlib.sha256(body).digest()

    assert Journal.decode(encoded(ABOUT), "journal").old_nbytes == 1000
    for about in ({**ABOUT, **change}, {k: v for k, v in ABOUT.items() if k not in change}, []):
        with pytest.raises(InvalidFileError, match="journal"):
            Journal.decode(encoded(about), "journal")


@pytest.mark.parametrize(
    "path",
    ["../x.gguf", "a/../../x.gguf", "/x.gguf", "a//b.gguf", "a\\..\\x.gguf", "C:x.gguf", "a\0b", "\ud800.gguf", ""],
)
def test_names_that_lead_out_of_a_repo(path: str) -> None:
    assert files_from_tree({"files": [{"path": path, "size": 1, "etag": None}]}) is None


def test_records_of_the_cache_that_are_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTPGRAFT_CACHE", str(tmp_path))
    for name, raw in (("a", b"[" * 100_000), ("b", b'{"name": "\\ud800"}'), ("c", b"\xff"), ("d", b'{"name": 3}')):
        (tmp_path / "heads" / name).mkdir(parents=True)
        (tmp_path / "heads" / name / "about.json").write_bytes(raw)
    (tmp_path / "heads" / "e").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "heads" / "e" / "about.json")
    assert [entry.name for entry in cache.list_entries()] == ["a", "b", "c", "d", "e"]


def test_json_output_holds_nothing_that_a_terminal_obeys(tmp_path: Path, mtpgraft: Program) -> None:
    name = "x\x1b[2J\x9b31m\u202e\u2066y\x7f"
    path = opened(tmp_path, set_key(llama_like(), "general.name", STR, name))
    said = mtpgraft("inspect", "--json", path).stdout
    assert not set("\x1b\x9b\u202e\u2066\x7f") & set(said)
    assert json.loads(said)["name"] == name


# --- the other readers' corpus ---------------------------------------------------------------------------------------


def fuzz_readers() -> ModuleType:
    if str(ROOT / "fuzz") not in sys.path:
        sys.path.append(str(ROOT / "fuzz"))  # as when it is run
    spec = importlib.util.spec_from_file_location("fuzz_readers", ROOT / "fuzz" / "fuzz_readers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readers_corpus() -> None:
    """What fuzz_readers.py does with an input, without the fuzzer; all readers are reached."""
    module = fuzz_readers()
    seen = set()
    for path in sorted((ROOT / "fuzz" / "readers").iterdir()):
        data = path.read_bytes()
        seen.add(data[0] % len(module.READERS))
        module.one_input(data)
    assert seen == set(range(len(module.READERS)))


# --- servers ---------------------------------------------------------------------------------------------------------


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """The address of a server on loopback that answers every request in this way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # the client has had enough
                answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def says(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"sha": "../../x", "id": "a/b"}'])
def test_a_hub_whose_answers_make_no_sense(body: bytes, tmp_path: Path, mtpgraft: Program) -> None:
    """In a process of its own: huggingface_hub keeps what its first server said."""
    with answering(lambda handler: says(handler, 200, body, Content_Type="application/json")) as address:
        folders = {"HF_HOME": str(tmp_path / "hf"), "MTPGRAFT_CACHE": str(tmp_path / "own")}
        done = mtpgraft("inspect", "hf:a/b", expect=2, HF_ENDPOINT=address, **folders)
    assert done.stderr.startswith("mtpgraft: hf:a/b: the Hub")
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("size", ["9" * 5000, "9" * 19, "-5", "*"])
def test_a_size_that_no_file_has(size: str) -> None:
    with (
        answering(lambda handler: says(handler, 206, b"G", Content_Range=f"bytes 0-0/{size}")) as address,
        pytest.raises(InputError, match="Content-Range"),
    ):
        open_url(f"{address}/m.gguf")


def test_a_server_that_sends_a_byte_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_SLOWEST_S", 0.2)

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206)
        first, last = handler.headers["Range"].removeprefix("bytes=").split("-")
        handler.send_header("Content-Range", f"bytes {first}-{last}/1000")
        handler.send_header("Content-Length", str(int(last) - int(first) + 1))
        handler.end_headers()
        for _ in range(int(last) - int(first) + 1):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)

    with answering(trickle) as address:
        source = open_url(f"{address}/m.gguf", RetryPolicy(n_attempts=2, first_delay_s=0.0))
        try:
            with pytest.raises(TransientError, match=r"reading failed 2 times: the connection brings \d+ bytes"):
                source.read_at(0, 1000)
        finally:
            source.close()
