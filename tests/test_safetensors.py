"""Safetensors headers: real checkpoints, and one hostile file for every way in which a header can be bad."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from mtpgraft.container.checkpoint import Checkpoint, checkpoint_from_files, is_checkpoint, open_checkpoint
from mtpgraft.container.safetensors import MAX_HEADER_NBYTES, read_safetensors
from mtpgraft.errors import InputError, InvalidFileError, MtpgraftError, RefusedError, TruncatedError
from mtpgraft.source.local import LocalFile
from tests.conftest import TINY, TRAINED


def build(path: Path, header: object, n_data: int = 0, *, length: int | None = None) -> Path:
    """A file whose header is this object (or these bytes), with `n_data` bytes behind it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(n_data))
    return path


def tensor(begin: int, end: int, shape: object = None, dtype: object = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def read(path: Path) -> dict[str, object]:
    source = LocalFile.open(path)
    try:
        return dict(read_safetensors(source))
    finally:
        source.close()


def test_header_as_values(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [3, 2], "data_offsets": [4, 16]},
        "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "empty": {"dtype": "F32", "shape": [0, 7], "data_offsets": [16, 16]},
    }
    path = build(tmp_path / "x.safetensors", header, 16)
    source = LocalFile.open(path)
    tensors = read_safetensors(source)
    start = path.stat().st_size - 16
    assert list(tensors) == ["b", "a", "empty"]
    assert (tensors["b"].shape, tensors["b"].offset, tensors["b"].n_bytes) == ((3, 2), start + 4, 12)
    assert (tensors["a"].n_elements, tensors["empty"].n_elements) == (1, 0)
    source.close()


def test_dtypes_of_tomorrow_can_be_named(tmp_path: Path) -> None:
    tensors = read(build(tmp_path / "x.safetensors", {"a": tensor(0, 5, [3], "F7_E9M9")}, 5))
    assert "F7_E9M9" in str(tensors["a"])


def test_packed_four_bit_lengths(tmp_path: Path) -> None:
    assert read(build(tmp_path / "x.safetensors", {"a": tensor(0, 3, [6], "F4")}, 3))
    with pytest.raises(InvalidFileError, match="length does not fit"):
        read(build(tmp_path / "y.safetensors", {"a": tensor(0, 3, [7], "F4")}, 3))


GOOD = {"a": tensor(0, 4), "b": tensor(4, 8)}

HOSTILE: dict[str, tuple[object, int, type[MtpgraftError], str]] = {
    "empty header": (b"", 0, InvalidFileError, "not valid JSON"),
    "not json": (b"{", 0, InvalidFileError, "not valid JSON"),
    "not utf-8": (b'{"\xff": 1}', 0, InvalidFileError, "UTF-8"),
    "not an object": ([1], 0, InvalidFileError, "not a JSON object"),
    "deep": (b"[" * 100_000, 0, InvalidFileError, "not valid JSON"),
    "huge number": (b'{"a": ' + b"9" * 5000 + b"}", 0, InvalidFileError, "JSON"),
    "NaN": (b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', 1, InvalidFileError, "NaN"),
    "infinity": (b'{"a":{"dtype":"U8","shape":[Infinity],"data_offsets":[0,1]}}', 1, InvalidFileError, "Infinity"),
    "duplicate": (b'{"a":{},"a":{}}', 0, InvalidFileError, "twice"),
    "entry": ({"a": 7}, 0, InvalidFileError, "not a JSON object"),
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 1]}}, 1, InvalidFileError, "no dtype"),
    "dtype type": ({"a": tensor(0, 1, dtype=3)}, 1, InvalidFileError, "no dtype"),
    "no shape": ({"a": {"dtype": "U8", "data_offsets": [0, 1]}}, 1, InvalidFileError, "shape"),
    "shape negative": ({"a": tensor(0, 1, [-1])}, 1, InvalidFileError, "shape"),
    "shape fraction": ({"a": tensor(0, 1, [1.0])}, 1, InvalidFileError, "shape"),
    "shape bool": ({"a": tensor(0, 1, [True])}, 1, InvalidFileError, "shape"),
    "shape text": ({"a": tensor(0, 1, "1")}, 1, InvalidFileError, "shape"),
    "shape of 1000 dimensions": ({"a": tensor(0, 1, [1] * 1000)}, 1, InvalidFileError, "shape"),
    "shape overflows": ({"a": tensor(0, 1, [2**40, 2**40, 0, 2**63])}, 1, InvalidFileError, "shape"),
    "product wraps": ({"a": tensor(0, 1, [2**62, 4])}, 1, InvalidFileError, "length does not fit"),
    "shape and length": ({"a": tensor(0, 4, [5])}, 4, InvalidFileError, "length does not fit"),
    "offsets missing": ({"a": {"dtype": "U8", "shape": [1]}}, 1, InvalidFileError, "data_offsets"),
    "offsets three": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, 2, InvalidFileError, "offsets"),
    "offsets backwards": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}}, 1, InvalidFileError, "offsets"),
    "offsets negative": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [-1, 0]}}, 1, InvalidFileError, "offsets"),
    "overlap": ({"a": tensor(0, 4), "b": tensor(3, 8)}, 8, InvalidFileError, "overlaps"),
    "same place": ({"a": tensor(0, 4), "b": tensor(0, 4)}, 4, InvalidFileError, "overlaps"),
    "hole": ({"a": tensor(0, 4), "b": tensor(5, 8)}, 8, InvalidFileError, "hole"),
    "hole in front": ({"a": tensor(1, 4)}, 4, InvalidFileError, "hole"),
    "beyond the end": (GOOD, 7, TruncatedError, "beyond the end"),
    "offset of 8 EB": ({"a": tensor(2**62, 2**62 + 1)}, 1, TruncatedError, "beyond the end"),
    "left over": (GOOD, 9, InvalidFileError, "belong to no tensor"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_header(tmp_path: Path, name: str) -> None:
    header, n_data, error, text = HOSTILE[name]
    path = build(tmp_path / "x.safetensors", header, n_data)
    with pytest.raises(error, match=text) as caught:
        read(path)
    assert caught.value.file == str(path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("length", "error"),
    [(2**64 - 1, TruncatedError), (2**63, TruncatedError), (10**6, TruncatedError), (0, InvalidFileError)],
)
def test_hostile_header_length(tmp_path: Path, length: int, error: type[MtpgraftError]) -> None:
    with pytest.raises(error):
        read(build(tmp_path / "x.safetensors", {}, 0, length=length))


def test_header_cap_is_checked_before_it_is_read(tmp_path: Path) -> None:
    path = build(tmp_path / "x.safetensors", b"{}", 0, length=MAX_HEADER_NBYTES + 1)
    os.truncate(path, MAX_HEADER_NBYTES + 100)  # sparse: nothing is written
    with pytest.raises(InvalidFileError, match="longer than mtpgraft reads"):
        read(path)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_no_header_at_all(tmp_path: Path, n: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(n))
    with pytest.raises(TruncatedError):
        read(path)


def test_real_checkpoint_of_one_file() -> None:
    with open_checkpoint(TRAINED / "hf") as checkpoint:
        assert len(checkpoint.file_of) > 50
        assert set(checkpoint.file_of.values()) == {"model.safetensors"}
        found = checkpoint.tensor("mtp.fc.weight")
        assert found.shape == (256, 512) and found.dtype == "BF16"


def test_real_sharded_checkpoint_opens_only_what_is_asked_for() -> None:
    with open_checkpoint(TINY / "glm4moe" / "hf") as checkpoint:
        assert not checkpoint.sources
        name = "model.layers.2.eh_proj.weight"
        assert checkpoint.tensor(name).shape == (32, 64)
        assert [Path(source.name).name for source in checkpoint.sources] == [checkpoint.file_of[name]]


def test_any_file_of_a_checkpoint_names_it() -> None:
    with open_checkpoint(TINY / "glm4moe" / "hf" / "model-00002-of-00003.safetensors") as checkpoint:
        assert "model.norm.weight" in checkpoint


def folder(path: Path, **files: object) -> Path:
    for name, content in files.items():
        file = path / name.replace("__", ".")
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def index(shard: object) -> dict[str, object]:
    return {"metadata": {}, "weight_map": {"a": shard}}


@pytest.mark.parametrize(
    "shard",
    ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..\\x.safetensors", "C:x.safetensors", "x.bin", "", ".."],
)
def test_index_that_points_outside_its_folder(tmp_path: Path, shard: str) -> None:
    build(tmp_path / "x.safetensors", {"a": tensor(0, 4)}, 4)
    inner = tmp_path / "inner"
    inner.mkdir()
    folder(inner, config__json={}, model__safetensors__index__json=index(shard))
    with pytest.raises(RefusedError, match="not a safetensors file beside it"):
        open_checkpoint(inner)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], "weight_map"),
        ({}, "weight_map"),
        ({"weight_map": []}, "weight_map"),
        ({"weight_map": {}}, "weight_map"),
        (index(7), "names no file"),
        (b"{", "not valid JSON"),
        (b'{"weight_map": {"a": "x", "a": "y"}}', "twice"),
    ],
)
def test_hostile_index(tmp_path: Path, content: object, text: str) -> None:
    folder(tmp_path, config__json={}, model__safetensors__index__json=content)
    with pytest.raises(InvalidFileError, match=text):
        open_checkpoint(tmp_path)


def test_index_and_shards_that_do_not_agree(tmp_path: Path) -> None:
    folder(tmp_path, config__json={}, model__safetensors__index__json=index("x.safetensors"))
    with pytest.raises(InputError, match="1 of its shards are missing"):
        open_checkpoint(tmp_path)
    build(tmp_path / "x.safetensors", {"b": tensor(0, 4)}, 4)
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(InvalidFileError, match="index says") as caught:
        checkpoint.tensor("a")
    assert caught.value.where == "tensor a"


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({}, "config.json is missing"),
        ({"config__json": {}}, "no safetensors file"),
        ({"config__json": {}, "pytorch_model__bin": b"x"}, "no safetensors file"),
        ({"config__json": b"[]", "model__safetensors": b""}, "not a JSON object"),
        ({"config__json": b"nope", "model__safetensors": b""}, "not valid JSON"),
        ({"config__json": {}, "model__safetensors": b""}, "ends inside"),
    ],
)
def test_folders_that_are_no_checkpoint(tmp_path: Path, files: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        open_checkpoint(folder(tmp_path, **files))


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_checkpoint(tmp_path / "nowhere")


def test_from_names_and_an_opener(tmp_path: Path) -> None:
    """The seam for the Hub: names and a function that opens one of them."""
    build(tmp_path / "weights", {"a": tensor(0, 4)}, 4)
    (tmp_path / "config").write_text("{}")
    opened: list[str] = []

    def opener(name: str) -> LocalFile:
        opened.append(name)
        return LocalFile.open(tmp_path / name.split(".")[0])

    names = ["README.md", "config.json", "weights.safetensors"]
    assert is_checkpoint(names) and not is_checkpoint(names[:2]) and not is_checkpoint(names[1:2])
    checkpoint: Checkpoint = checkpoint_from_files("hf:org/repo", names, opener)
    assert checkpoint.tensor("a").n_bytes == 4 and opened == ["config.json", "weights.safetensors"]
    checkpoint.close()


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.999])
def test_truncated_real_file(tmp_path: Path, cut: float) -> None:
    real = TRAINED / "hf" / "model.safetensors"
    path = tmp_path / "model.safetensors"
    path.write_bytes(real.read_bytes()[: int(real.stat().st_size * cut)])
    with pytest.raises(TruncatedError):
        read(path)


Corruption = Callable[[bytearray], None]


def test_every_byte_of_a_small_header_may_be_anything(tmp_path: Path) -> None:
    """Whatever one byte becomes: a value or one of our errors, never another exception."""
    good = build(tmp_path / "x.safetensors", {"a": tensor(0, 2), "b": tensor(2, 6, [2, 1], "BF16")}, 6).read_bytes()
    path = tmp_path / "y.safetensors"
    for at in range(len(good) - 6):
        for value in (0, 0x22, 0x2D, 0x39, 0x5B, 0x7D, 0xFF):
            path.write_bytes(good[:at] + bytes([value]) + good[at + 1 :])
            try:
                read(path)
            except MtpgraftError:
                continue
