"""Coverage-guided fuzzing of everything else that reads what others wrote (PyPI `atheris`).

    python fuzz/fuzz_readers.py fuzz/readers -max_len=4096 -max_total_time=3600

The first byte of an input says which reader gets the rest: safetensors headers, indexes, whole checkpoints (config.json
and a header, down to the planned head), split sets, journals, bench results, suites, census lines, the cache's records,
HTTP headers. Any exception but an MtpgraftError of exit code 2 in one line is a crash.
`python fuzz/make_corpus.py` makes the checked-in corpus again.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

from memory import Memory

try:
    import atheris
except ImportError:  # the tests run the readers on the corpus without it
    atheris = None

with nullcontext() if atheris is None else atheris.instrument_imports(include=["mtpgraft"]):
    from mtpgraft.audit.census import read_census
    from mtpgraft.audit.checkpoint import audit_files
    from mtpgraft.bench.resultfile import read_result
    from mtpgraft.bench.suites.read import parse_suite
    from mtpgraft.container import gguf_from_sources
    from mtpgraft.container.checkpoint import checkpoint_from_files
    from mtpgraft.container.safetensors import read_safetensors, shard_of_tensor
    from mtpgraft.errors import ExitCode, InputError, MtpgraftError
    from mtpgraft.head import find_head
    from mtpgraft.hf import plan_extract_checkpoint
    from mtpgraft.inplace.journal import Journal
    from mtpgraft.jsontext import parse_json
    from mtpgraft.report.surgery import plan_json
    from mtpgraft.source.cache_blocks import BlockStore
    from mtpgraft.source.hub import files_from_tree
    from mtpgraft.source.retries import Retry
    from mtpgraft.source.transport import parse_content_range, redirected, retry_after_s

SCRATCH = Path(tempfile.mkdtemp(prefix="mtpgraft-fuzz-"))


class Answer:
    """As much of an HTTP response as headers are read from."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers
        self.status_code = 206


def safetensors(data: bytes) -> None:
    for tensor in read_safetensors(Memory(data)).values():
        assert 0 <= tensor.offset <= tensor.offset + tensor.n_bytes <= len(data), tensor


def index(data: bytes) -> None:
    for name in shard_of_tensor(parse_json(data, "index"), "index").values():
        assert Path(name).name == name and name not in (".", ".."), name


def checkpoint(data: bytes) -> None:
    """config.json, a NUL, the JSON header; the data is as long as its offsets say (to 64 kB)."""
    config, _, header = data.partition(b"\0")
    end = 0
    with suppress(Exception):
        end = int(max(entry["data_offsets"][1] for entry in json.loads(header).values()))
    weights = struct.pack("<Q", len(header)) + header + bytes(min(max(0, end), 65536))
    files = {"config.json": config, "model.safetensors": weights}

    def open_file(name: str) -> Memory:
        return Memory(files[name], name)

    audit_files("fuzzed", {name: len(raw) for name, raw in files.items()}, open_file)
    with checkpoint_from_files("fuzzed", files, open_file) as opened:
        plan = plan_extract_checkpoint(opened, Path("out.gguf"))
        plan_json(plan)
        plan.files[0].header()


def split_set(data: bytes) -> None:
    """Shards behind each other, each with its length in four bytes."""
    shards: list[Memory] = []
    while len(data) > 4 and len(shards) < 4:
        (n,) = struct.unpack("<I", data[:4])
        shards.append(Memory(data[4 : 4 + n], f"m-{len(shards) + 1:05d}-of-00002.gguf"))
        data = data[4 + n :]
    if shards:
        find_head(gguf_from_sources(list(shards)))


def journal(data: bytes) -> None:
    body = b"mtpgraft journal 1\n" + data
    Journal.decode(body + hashlib.sha256(body).digest(), "journal")


def in_file(read: Callable[[Path], object]) -> Callable[[bytes], None]:
    path = SCRATCH / read.__name__

    def run(data: bytes) -> None:
        path.write_bytes(data)
        read(path)
        assert path.read_bytes() == data

    return run


def suite(data: bytes) -> None:
    parse_suite(data.decode("utf-8", "replace"), "suite")


def cache_blocks(data: bytes) -> None:
    folder = SCRATCH / "blocks"
    folder.mkdir(exist_ok=True)
    (folder / "data").write_bytes(b"x" * 100)
    (folder / "journal").write_bytes(data)
    store = BlockStore.open(folder, 100, "fuzzed")
    with suppress(AttributeError):
        assert 0 <= store.n_bytes <= 100
    store.close()


def cache_tree(data: bytes) -> None:
    with suppress(ValueError, RecursionError):
        files_from_tree(json.loads(data))


def http(data: bytes) -> None:
    text = data.decode("latin-1")
    with suppress(Retry):
        start, end, size = parse_content_range(Answer({"content-range": text}), "fuzzed")
        assert start >= 0 and end >= 0 and size >= 0
    retry_after_s({"retry-after": text})
    with suppress(InputError):
        url, headers = redirected("https://a.example/x", {"authorization": "Bearer x"}, Answer({"location": text}), "x")
        assert not headers or url.startswith("https://a.example"), url


READERS: tuple[Callable[[bytes], None], ...] = (
    safetensors,
    index,
    checkpoint,
    split_set,
    journal,
    in_file(read_result),
    suite,
    in_file(read_census),
    cache_blocks,
    cache_tree,
    http,
)


def one_input(data: bytes) -> None:
    if not data:
        return
    try:
        READERS[data[0] % len(READERS)](data[1:])
    except MtpgraftError as error:
        assert error.exit_code == ExitCode.BAD_INPUT, error
        assert "\n" not in str(error), error


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
