"""GGUF headers: read back what was built, keep every byte, and refuse what cannot be."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtpgraft.container import GGUFModel, ValueType, open_gguf
from mtpgraft.container.encode import TableRow, encode_header, make_array, make_key, renamed
from mtpgraft.errors import InputError, InvalidFileError, MtpgraftError, TruncatedError
from tests.ggufbuild import (
    ARR,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    STR,
    U8,
    U16,
    U32,
    U64,
    Built,
    f32_tensor,
    llama_like,
)

ORDERS = ("<", ">")


def opened(tmp_path: Path, built: Built | bytes, name: str = "m.gguf") -> GGUFModel:
    path = tmp_path / name
    path.write_bytes(built if isinstance(built, bytes) else built.bytes())
    return open_gguf(path)


ALL_KINDS: list[tuple[str, int, object]] = [
    ("a.u8", U8, 255),
    ("a.i8", I8, -3),
    ("a.u16", U16, 65535),
    ("a.i16", I16, -300),
    ("a.u32", U32, 2**32 - 1),
    ("a.i32", I32, -(2**31)),
    ("a.f32", F32, 0.5),
    ("a.bool", BOOL, True),
    ("a.str", STR, "héllo \x1b[31m"),
    ("a.empty", STR, ""),
    ("a.u64", U64, 2**63),
    ("a.i64", I64, -(2**62)),
    ("a.f64", F64, -1.25),
    ("a.array.u8", ARR, (U8, [1, 2, 3])),
    ("a.array.str", ARR, (STR, ["x", "", "yz"])),
    ("a.array.bool", ARR, (BOOL, [True, False])),
    ("a.array.empty", ARR, (I32, [])),
    ("a.array.f32", ARR, (F32, [0.25, -8.0])),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("version", [2, 3])
def test_every_value_type_reads_back(tmp_path: Path, order: str, version: int) -> None:
    built = Built([("general.architecture", STR, "llama"), *ALL_KINDS], version=version, order=order)
    model = opened(tmp_path, built)
    assert model.byte_order == order
    for name, kind, value in ALL_KINDS:
        key = model.key(name)
        assert key is not None
        assert bytes(key.record) == built.key(name, kind, value)
        if kind == ARR:
            assert isinstance(value, tuple)
            assert key.items() == value[1]
        else:
            assert key.scalar() == value


@pytest.mark.parametrize("order", ORDERS)
def test_encoded_keys_are_what_struct_writes(order: str) -> None:
    built = Built(order=order)
    for name, kind, value in ALL_KINDS:
        if kind == ARR:
            assert isinstance(value, tuple)
            key = make_array(name, ValueType(value[0]), value[1], order)
        else:
            assert isinstance(value, bool | int | float | str)
            key = make_key(name, ValueType(kind), value, order)
        assert bytes(key.record) == built.key(name, kind, value)
        again = renamed(key, "other." + name)
        assert bytes(again.record) == built.key("other." + name, kind, value)
        assert again.items() == key.items()


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
scalars = st.one_of(
    st.tuples(st.just(U32), st.integers(0, 2**32 - 1)),
    st.tuples(st.just(STR), st.text(max_size=30)),
    st.tuples(st.just(BOOL), st.booleans()),
    st.tuples(st.just(ARR), st.tuples(st.just(STR), st.lists(st.text(max_size=8), max_size=8))),
    st.tuples(st.just(ARR), st.tuples(st.just(I16), st.lists(st.integers(-(2**15), 2**15 - 1), max_size=8))),
)
shapes = st.lists(st.integers(1, 7), min_size=0, max_size=4).map(tuple)


@settings(max_examples=150, deadline=None)
@given(
    keys=st.dictionaries(names.filter(lambda n: n != "general.alignment"), scalars, max_size=6),
    tensors=st.dictionaries(names.filter(lambda n: len(n.encode()) < 64), shapes, max_size=6),
    alignment=st.sampled_from([1, 8, 32, 64, 4096]),
    order=st.sampled_from(ORDERS),
    pad_end=st.booleans(),
)
def test_any_header_survives_parse_and_encode(
    tmp_path_factory: pytest.TempPathFactory,
    keys: dict[str, tuple[int, object]],
    tensors: dict[str, tuple[int, ...]],
    alignment: int,
    order: str,
    pad_end: bool,
) -> None:
    built = Built(
        [("general.alignment", U32, alignment), *((n, k, v) for n, (k, v) in keys.items())],
        [f32_tensor(name, shape) for name, shape in tensors.items()],
        order=order,
        alignment=alignment,
        pad_end=pad_end,
    )
    raw = built.bytes()
    model = opened(tmp_path_factory.mktemp("h"), raw)
    shard = model.shards[0]
    assert not shard.has_gaps
    assert not shard.trailing_nbytes
    table = [TableRow(t.name, t.shape, t.type_id, t.n_bytes) for t in model.tensors]
    again = encode_header(shard.version, order, shard.alignment, shard.keys, table)
    assert raw.startswith(again.raw)
    assert again.data_offsets == tuple(t.offset for t in model.tensors)
    for tensor, (_, shape, _, data) in zip(model.tensors, built.tensors, strict=True):
        assert tensor.shape == shape
        assert raw[tensor.offset : tensor.offset + tensor.n_bytes] == data
    model.close()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_header_is_refused_or_read_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(llama_like().bytes())
    header_nbytes = len(llama_like().header())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header_nbytes - 1))
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))
    try:
        model = opened(tmp_path_factory.mktemp("d"), bytes(raw[:cut]))
    except MtpgraftError as error:
        assert error.exit_code == 2
        assert error.file
    else:
        for tensor in model.tensors:
            assert 0 <= tensor.offset <= tensor.offset + tensor.n_bytes <= max(cut, tensor.offset)
        model.close()


def test_a_gap_is_seen_and_read(tmp_path: Path) -> None:
    model = opened(tmp_path, llama_like(gap=32))
    assert model.shards[0].has_gaps


def test_trailing_bytes_are_seen(tmp_path: Path) -> None:
    model = opened(tmp_path, llama_like().bytes() + b"x" * 100)
    assert model.shards[0].trailing_nbytes == 100


def test_unknown_types_get_their_length_from_the_offsets(tmp_path: Path) -> None:
    # IQ4_KS, 300 rows of 256: 42,000 bytes, in a span of 42,016 (ik_llama.cpp's rows carry a scale of their own)
    odd = ("blk.0.odd.weight", (256, 300), 144, b"\x5a" * 42_000)
    future = ("blk.0.future.weight", (256, 3), 999, b"\xa5" * 77)
    built = Built([("general.architecture", STR, "llama")], [odd, future, f32_tensor("output_norm.weight", (4,))])
    model = opened(tmp_path, built)
    assert [(t.n_bytes, t.type.name) for t in model.tensors] == [(42_016, "IQ4_KS"), (96, "type-999"), (16, "F32")]


def patched(offset: int, layout: str, value: int) -> bytes:
    raw = bytearray(llama_like().bytes())
    struct.pack_into(layout, raw, offset, value)
    return bytes(raw)


def with_entry(name: str = "t", shape: tuple[int, ...] = (8,), type_id: int = 0, offset: int = 0) -> bytes:
    """A file with one hand-made tensor entry and 64 bytes of data."""
    built = Built([("general.architecture", STR, "llama")])
    header = bytearray(built.header())
    struct.pack_into("<Q", header, 8, 1)
    header += built.text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_id, offset)
    return bytes(header) + bytes(-len(header) % 32) + bytes(64)


def keyed(*records: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(records)) + b"".join(records)


HOSTILE: dict[str, tuple[bytes, type[MtpgraftError]]] = {
    "empty": (b"", TruncatedError),
    "two bytes": (b"GG", InvalidFileError),
    "wrong magic": (b"GGML" + bytes(60), InvalidFileError),
    "magic only": (b"GGUF", TruncatedError),
    "version 0": (patched(4, "<I", 0), InvalidFileError),
    "version 1": (patched(4, "<I", 1), InvalidFileError),
    "version 99": (patched(4, "<I", 99), InvalidFileError),
    "2^63 tensors": (patched(8, "<Q", 2**63), InvalidFileError),
    "2^64-1 keys": (patched(16, "<Q", 2**64 - 1), InvalidFileError),
    "one tensor too many": (patched(8, "<Q", 7), MtpgraftError),
    "key name longer than the file": (patched(24, "<Q", 2**40), InvalidFileError),
    "string longer than the file": (
        keyed(Built().text("k") + struct.pack("<IQ", STR, 2**62)),
        TruncatedError,
    ),
    "array of 2^61 strings": (
        keyed(Built().text("k") + struct.pack("<IIQ", ARR, STR, 2**61)),
        InvalidFileError,
    ),
    "nested arrays": (keyed(Built().text("k") + struct.pack("<IIQ", ARR, ARR, 1)), InvalidFileError),
    "value type 13": (keyed(Built().text("k") + struct.pack("<IQ", 13, 0)), InvalidFileError),
    "empty key name": (keyed(Built().text("") + struct.pack("<II", U32, 0)), InvalidFileError),
    "tensor name not UTF-8": (
        with_entry("t").replace(b"\x01" + bytes(7) + b"t", b"\x01" + bytes(7) + b"\xff"),
        InvalidFileError,
    ),
    "duplicate key": (Built([("a", U32, 1), ("a", U32, 1)]).bytes(), InvalidFileError),
    "alignment 0": (Built([("general.alignment", U32, 0)]).bytes(), InvalidFileError),
    "alignment 24": (Built([("general.alignment", U32, 24)]).bytes(), InvalidFileError),
    "alignment of another type": (Built([("general.alignment", U64, 32)]).bytes(), InvalidFileError),
    "duplicate tensor": (
        Built([], [f32_tensor("a", (8,)), f32_tensor("a", (8,))]).bytes(),
        InvalidFileError,
    ),
    "tensor name of 64 bytes": (with_entry("n" * 64), InvalidFileError),
    "five dimensions": (with_entry(shape=(1, 1, 1, 1, 1)), InvalidFileError),
    "2^63 elements": (with_entry(shape=(2**62, 2)), InvalidFileError),
    "negative dimension": (with_entry(shape=(2**64 - 8,)), InvalidFileError),
    "offset not aligned": (with_entry(offset=8), InvalidFileError),
    "offset outside": (with_entry(offset=2**40), TruncatedError),
    "data longer than the file": (with_entry(shape=(64, 64)), TruncatedError),
    "rows that fill no block": (with_entry(shape=(8,), type_id=8), InvalidFileError),
    "type out of range": (with_entry(type_id=2**31), InvalidFileError),
    "half a file": (llama_like().bytes()[:-600], TruncatedError),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_end_in_one_clear_error(tmp_path: Path, case: str) -> None:
    raw, kind = HOSTILE[case]
    begin = time.perf_counter()
    with pytest.raises(kind) as caught:
        opened(tmp_path, raw)
    assert time.perf_counter() - begin < 2
    assert "m.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.where or case == "empty"


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    raw = bytearray(Built([], [f32_tensor("a", (16,)), f32_tensor("b", (16,))]).bytes())
    at = raw.index(b"b" + struct.pack("<IQI", 1, 16, 0)) + 1 + 4 + 8 + 4
    struct.pack_into("<Q", raw, at, 32)  # inside a's 64 bytes
    with pytest.raises(InvalidFileError, match="overlap"):
        opened(tmp_path, bytes(raw))


def test_a_header_over_the_cap_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    path.write_bytes(Built([("a", STR, "x" * 100_000)]).bytes())
    with pytest.raises(InvalidFileError, match="cap"):
        open_gguf(path, max_header_nbytes=50_000)


def test_not_a_file(tmp_path: Path) -> None:
    import os

    with pytest.raises(InputError, match="no such file"):
        open_gguf(tmp_path / "nothing.gguf")
    with pytest.raises(InputError, match="holds no GGUF"):
        open_gguf(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(InputError, match="not a regular file"):
        open_gguf(tmp_path / "pipe.gguf")
    loop = tmp_path / "loop.gguf"
    loop.symlink_to(loop)
    with pytest.raises(InputError):
        open_gguf(loop)


def test_a_folder_with_one_model_is_that_model(tmp_path: Path) -> None:
    opened(tmp_path, llama_like(), "only.gguf").close()
    assert open_gguf(tmp_path).architecture == "qwen35"
    (tmp_path / "second.gguf").write_bytes(llama_like().bytes())
    with pytest.raises(InputError, match="several"):
        open_gguf(tmp_path)
