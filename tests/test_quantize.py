"""Type changes must be ggml's own, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mtpgraft import q8_0
from mtpgraft.container.types import BF16, F16, F32, Q8_0, TENSOR_TYPES_BY_NAME
from mtpgraft.errors import RefusedError, TruncatedError, UsageError
from mtpgraft.quantize import convert, decode_rows, encode_rows, parse_type, writable_types
from mtpgraft.source.local import LocalFile

libgguf = pytest.importorskip("libgguf", reason="ggml's C quantizers, the oracle")


def ggml(values: np.ndarray, type_id: int) -> bytes:
    """What ggml's C code makes of these rows."""
    return np.asarray(libgguf.quantize_rows(np.ascontiguousarray(values), type_id)).tobytes()


def special(kind: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    values = rng.standard_normal((32, 256)).astype(np.float32)
    if kind == "nan":
        values[rng.random(values.shape) < 0.1] = np.nan
        values[:, 31::32] = np.nan
        values[5] = np.nan
    elif kind == "infinite":
        values[3, 5], values[4, 6] = np.inf, -np.inf
        values[9, :32] = np.inf
    elif kind == "nan and infinite":
        values[rng.random(values.shape) < 0.1] = np.nan
        values[rng.random(values.shape) < 0.1] = np.inf
    elif kind == "zeros":
        values[:16], values[16:] = 0.0, -0.0
    elif kind == "denormal":
        values *= np.float32(1e-41)
    elif kind == "tiny":
        values *= np.float32(1e-7)
    elif kind == "huge":
        values *= np.float32(1e38)
    elif kind == "halves":
        values = np.round(rng.uniform(-127, 127, (32, 256))).astype(np.float32) + np.float32(0.5)
        values[:, ::32] = 127
    return values


KINDS = ("normal", "nan", "infinite", "nan and infinite", "zeros", "denormal", "tiny", "huge", "halves")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("from_type", [F32, F16, BF16])
def test_q8_0_is_ggmls_own(kind: str, from_type: int) -> None:
    with np.errstate(all="ignore"):
        stored = encode_rows(special(kind), from_type)
    values = decode_rows(stored, 32, 256, from_type)
    assert encode_rows(values, Q8_0) == ggml(values, Q8_0)


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, (2, 64), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)))
def test_q8_0_of_any_floats_is_ggmls_own(values: np.ndarray) -> None:
    assert encode_rows(values, Q8_0) == ggml(values, Q8_0)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.uint32, (4, 32), elements=st.integers(0, 2**32 - 1)))
def test_bf16_is_ggmls_own(bits: np.ndarray) -> None:
    values = bits.view(np.float32)
    assert encode_rows(values, BF16) == ggml(values, BF16)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4", "TQ1_0", "TQ2_0"])
def test_other_types_are_ggmls_own(name: str) -> None:
    type_id = TENSOR_TYPES_BY_NAME[name].id
    values = special("normal")
    assert encode_rows(values, type_id) == ggml(values, type_id)


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q2_K", "Q5_0", "Q8_0"])
def test_a_lower_type_is_requantized_from_what_ggml_reads_in_it(name: str) -> None:
    type_id = TENSOR_TYPES_BY_NAME[name].id
    stored = ggml(special("normal"), type_id)
    ours = decode_rows(stored, 32, 256, type_id)
    theirs = np.asarray(libgguf.dequantize_rows(np.frombuffer(stored, np.uint8).reshape(32, -1), type_id, 256))
    assert np.array_equal(ours, theirs.reshape(32, 256))
    assert encode_rows(ours, Q8_0) == ggml(np.ascontiguousarray(theirs.reshape(32, 256)), Q8_0)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("from_type", [F32, F16, BF16])
def test_chunks_make_up_the_whole(tmp_path: Path, from_type: int, n_threads: int) -> None:
    """Over two chunks and five steps, with odd blocks in the first, in the middle and in the last of them."""
    values = np.random.default_rng(1).standard_normal((5000, 512)).astype(np.float32)
    with np.errstate(all="ignore"):
        for first, kind in ((0, "tiny"), (2048, "nan and infinite"), (3000, "denormal"), (4984, "nan")):
            values[first : first + 16] = special(kind).reshape(16, 512)
        stored = encode_rows(values, from_type)
    path = tmp_path / "raw"
    path.write_bytes(b"head" + stored)
    source = LocalFile.open(path)
    chunks = [bytes(c) for c in convert(source, 4, (512, 50, 100), from_type, Q8_0, n_threads=n_threads)]
    assert len(chunks) > 1
    assert b"".join(chunks) == ggml(decode_rows(stored, 5000, 512, from_type), Q8_0)


@pytest.mark.parametrize("from_type", [F32, F16, BF16])
def test_a_source_that_only_hands_out_bytes(from_type: int) -> None:
    """As remote files do; big-endian, and of a length that is no whole chunk."""
    with np.errstate(all="ignore"):
        stored = encode_rows(special("normal"), from_type, ">")

    class Remote:
        name, size = "remote", len(stored)

        def read_at(self, offset: int, n_bytes: int) -> bytes:
            return stored[offset : offset + n_bytes]

        def close(self) -> None: ...

    expected = ggml(decode_rows(stored, 32, 256, from_type, ">"), Q8_0)
    assert b"".join(map(bytes, convert(Remote(), 0, (256, 32), from_type, Q8_0, ">"))) == expected
    with pytest.raises(TruncatedError, match="ends inside a tensor"):
        list(convert(Remote(), 0, (256, 33), from_type, Q8_0, ">"))


def test_byte_orders(tmp_path: Path) -> None:
    values = special("normal")
    path = tmp_path / "raw"
    for type_id in (F32, F16, BF16, Q8_0):
        little, big = encode_rows(values, type_id, "<"), encode_rows(values, type_id, ">")
        assert little != big
        path.write_bytes(big)
        swapped = b"".join(convert(LocalFile.open(path), 0, (256, 32), type_id, type_id, ">", "<"))
        assert swapped == little


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(bytes(1000))
    with pytest.raises(RefusedError, match="IQ4_KS"):
        list(convert(LocalFile.open(path), 0, (256, 2), 144, Q8_0))
    with pytest.raises(RefusedError, match="byte orders"):
        list(convert(LocalFile.open(path), 0, (256, 2), TENSOR_TYPES_BY_NAME["Q4_K"].id, F32, ">", "<"))
    with pytest.raises(UsageError, match="q9"):
        parse_type("q9")


def test_every_offered_type_is_written(tmp_path: Path) -> None:
    values = special("normal")
    for name in writable_types():
        known = parse_type(name)
        assert len(encode_rows(values, known.id)) == known.nbytes((256, 32))


def test_every_half_precision_number_is_read_as_numpy_does() -> None:
    halves = np.arange(65536, dtype=np.uint16)
    for part in (halves[(halves & 0x7FFF) < 0x7C00], halves):
        expected = part.view(np.float16).astype(np.float32)
        for order in "<>":
            ours = decode_rows(part.astype(order + "u2").tobytes(), 1, len(part), F16, order)
            assert np.array_equal(ours.reshape(-1).view(np.uint32), expected.view(np.uint32))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([BF16, F16, F32]))
def test_q8_0_of_random_bits_is_ggmls_own(seed: int, from_type: int) -> None:
    raw = np.random.default_rng(seed).integers(0, 256, 4 * 1024, np.uint8).tobytes()
    values = decode_rows(raw, 32, len(raw) // 32 // (4 if from_type == F32 else 2), from_type)
    assert encode_rows(values, Q8_0) == ggml(values, Q8_0)


def test_narrowing_is_numpys_own_cast() -> None:
    """Around every F16 number and every tie between two, where rounding turns, and beyond both ends."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2
    exact = np.concatenate([halves, ties, np.float32([65504, 65519, 65520, 65536, 1e30, np.inf, 2.0**-25, 1e-40])])
    values = np.concatenate([exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(0))])
    with np.errstate(all="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
        assert np.array_equal(q8_0.narrow_to_f16(values), expected)
