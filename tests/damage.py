"""Random structured damage to a small real model: the wide run of scripts/hostile_agreement.py beside llama.cpp."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from tests.ggufbuild import ARR, BOOL, F32, F64, I8, I16, I32, I64, STR, U8, U16, U32, U64, Built

Damage = Callable[[random.Random, Built], "str | tuple[str, bytes]"]
"""Changes the model and says what it did, or also gives the bytes that the file is to have."""

_INTEGERS = {
    U8: (0, 2**8 - 1),
    I8: (-(2**7), 2**7 - 1),
    U16: (0, 2**16 - 1),
    I16: (-(2**15), 2**15 - 1),
    U32: (0, 2**32 - 1),
    I32: (-(2**31), 2**31 - 1),
    U64: (0, 2**64 - 1),
    I64: (-(2**63), 2**63 - 1),
}
_KINDS = (U8, I8, U16, I16, U32, I32, F32, BOOL, STR, U64, I64, F64)
_EDGES = (0, 1, 2, 3, 31, 63, 64, 127, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)


def _as(kind: int, value: object) -> object:
    """The value, as near as this type comes to it."""
    if kind == STR:
        return str(value)
    number = value if isinstance(value, int | float) else 1
    if kind == BOOL:
        return bool(number)
    if kind in (F32, F64):
        return max(-3e38, min(3e38, float(number)))
    low, high = _INTEGERS[kind]
    return max(low, min(high, int(number)))


def _other_type(rng: random.Random, built: Built) -> str:
    at = _key(rng, built)
    name, kind, value = built.keys[at]
    if kind == ARR:
        assert isinstance(value, tuple)
        new = rng.choice(_KINDS)
        built.keys[at] = (name, ARR, (new, [_as(new, item) for item in value[1]]))
        return f"array {name} of type {new}"
    new = rng.choice(_KINDS)
    built.keys[at] = (name, new, _as(new, value))
    return f"key {name} from type {kind} to {new}"


def _scalar_and_array(rng: random.Random, built: Built) -> str:
    at = _key(rng, built)
    name, kind, value = built.keys[at]
    if kind == ARR:
        assert isinstance(value, tuple)
        built.keys[at] = (name, value[0], value[1][0] if value[1] else _as(value[0], 0))
        return f"array {name} to one value"
    built.keys[at] = (name, ARR, (kind, [value] * rng.choice((0, 1, 2, 3, 5))))
    return f"key {name} to an array"


def _other_value(rng: random.Random, built: Built) -> str:
    at = _key(rng, built)
    name, kind, value = built.keys[at]
    if kind == ARR:
        assert isinstance(value, tuple)
        item, items = value[0], list(value[1])
        if items:
            items[rng.randrange(len(items))] = _value(rng, item)
        built.keys[at] = (name, ARR, (item, items))
        return f"an item of {name}"
    built.keys[at] = (name, kind, _value(rng, kind))
    return f"key {name} = {str(built.keys[at][2])[:40]}"


def _value(rng: random.Random, kind: int) -> object:
    if kind == STR:
        return rng.choice(("", "x", "a\0b", "llama", "qwen35", "gpt2", b"\xff\xfe", "é" * 40, "\x1b[2J"))
    if kind in (F32, F64):
        return rng.choice((0.0, 1.0, -1.0, 1e38, float("inf"), float("nan"), 1e-6))
    return _as(kind, rng.choice(_EDGES) * rng.choice((1, 1, 1, -1)))


def _array_length(rng: random.Random, built: Built) -> str:
    arrays = [i for i, key in enumerate(built.keys) if key[1] == ARR]
    if not arrays:
        return _other_value(rng, built)
    at = rng.choice(arrays)
    name, kind, value = built.keys[at]
    assert isinstance(value, tuple)
    items = list(value[1])
    n = rng.choice((0, 1, len(items) - 1, len(items) + 1, 2 * len(items)))
    items = (items * (n // max(1, len(items)) + 1))[: max(0, n)] if items else items
    built.keys[at] = (name, kind, (value[0], items))
    return f"array {name} of {len(items)} items"


def _drop_key(rng: random.Random, built: Built) -> str:
    return f"without key {built.keys.pop(_key(rng, built))[0]}"


def _twice_key(rng: random.Random, built: Built) -> str:
    key = built.keys[_key(rng, built)]
    built.keys.insert(rng.randrange(len(built.keys) + 1), key)
    return f"key {key[0]} twice"


def _new_key(rng: random.Random, built: Built) -> str:
    arch = next((str(value) for name, _, value in built.keys if name == "general.architecture"), "x")
    name = rng.choice(
        (
            "general.alignment",
            "split.count",
            "split.no",
            "split.tensors.count",
            f"{arch}.nextn_predict_layers",
            f"{arch}.strange",
            "mtpgraft.undo.added",
            f"mtpgraft.undo.{arch}.block_count",
            "mtpgraft.undo.file_size",
            "k" * rng.choice((1, 63, 64, 255, 65535, 65536)),
            "a\0b",
            "é",
        )
    )
    kind = rng.choice((U8, U16, U32, I32, F32, BOOL, STR, U64))
    built.keys = [key for key in built.keys if key[0] != name]
    value = rng.choice((0, 1, 2, 3, 32, 64, 4096, 24))
    built.keys.append((name, kind, _as(kind, value)))
    return f"new key {name[:60]!r} of type {kind} = {value}"


def _rename_key(rng: random.Random, built: Built) -> str:
    at = _key(rng, built)
    name, kind, value = built.keys[at]
    new = rng.choice((name[:-1], name + "x", name.upper(), "", name + "\0"))
    built.keys[at] = (new, kind, value)
    return f"key {name} renamed {new!r}"


def _swap_keys(rng: random.Random, built: Built) -> str:
    rng.shuffle(built.keys)
    return "keys in another order"


def _drop_tensor(rng: random.Random, built: Built) -> str:
    return f"without tensor {built.tensors.pop(_tensor(rng, built))[0]}"


def _twice_tensor(rng: random.Random, built: Built) -> str:
    tensor = built.tensors[_tensor(rng, built)]
    built.tensors.append(tensor)
    return f"tensor {tensor[0]} twice"


def _rename_tensor(rng: random.Random, built: Built) -> str:
    at = _tensor(rng, built)
    name, *rest = built.tensors[at]
    new = rng.choice(
        (
            name + "x",
            name[:-1],
            "",
            "x" * 63,
            "x" * 64,
            name + "\0",
            name.replace("weight", "bias"),
            name.replace("blk.", "blk.0"),
            name.replace(".", "..", 1),
            name.replace("blk.0", "blk.9"),
            "rope_freqs.weight",
        )
    )
    built.tensors[at] = (new, *rest)  # type: ignore[assignment]
    return f"tensor {name} renamed {new!r}"


def _extra_tensor(rng: random.Random, built: Built) -> str:
    name, shape, kind, data = built.tensors[_tensor(rng, built)]
    last = max((int(t[0].split(".")[1]) for t in built.tensors if t[0].startswith("blk.")), default=0)
    beyond = f"blk.{last + 1}.attn_norm.weight"
    new = rng.choice((name + "_2", f"blk.{last}.nextn.strange.weight", beyond, "mtp.fc.weight"))
    built.tensors.append((new, shape, kind, data))
    return f"one more tensor {new}"


def _move_tensor(rng: random.Random, built: Built) -> str:
    rng.shuffle(built.tensors)
    return "tensors in another order"


def _shape(rng: random.Random, built: Built) -> str:
    at = _tensor(rng, built)
    name, shape, kind, data = built.tensors[at]
    how = rng.choice(("swap", "flat", "ones", "leading one", "zero", "edge", "five", "none", "other"))
    new: tuple[int, ...]
    if how == "swap":
        new = shape[::-1]
    elif how == "flat":
        n = 1
        for dim in shape:
            n *= dim
        new = (n,)
    elif how == "ones":
        new = (*shape, *[1] * (4 - len(shape)))
    elif how == "leading one":
        new = (1, *shape)
    elif how == "zero":
        new = (*shape[:-1], 0)
    elif how == "edge":
        new = (*shape[:-1], rng.choice(_EDGES))
    elif how == "five":
        new = (*shape, *[1] * (5 - len(shape)))
    elif how == "none":
        new = ()
    else:
        new = (shape[0] * 2, *shape[1:])
    built.tensors[at] = (name, new, kind, data)
    return f"tensor {name} of shape {list(new)} ({how})"


def _type(rng: random.Random, built: Built) -> str:
    at = _tensor(rng, built)
    name, shape, _, data = built.tensors[at]
    kind = rng.choice((*range(48), 133, 137, 202, 999, 2**16, 2**31, 2**32 - 1))
    built.tensors[at] = (name, shape, kind, data)
    return f"tensor {name} of type {kind}"


def _data_length(rng: random.Random, built: Built) -> str:
    at = _tensor(rng, built)
    name, shape, kind, data = built.tensors[at]
    n = rng.choice((-1, -32, 1, 31, 32, 33, -len(data)))
    built.tensors[at] = (name, shape, kind, data[:n] if n < 0 else data + bytes(n))
    return f"tensor {name} with {n:+} bytes"


def _alignment(rng: random.Random, built: Built) -> str:
    built.alignment = rng.choice((1, 2, 4, 8, 16, 64, 256, 4096))
    built.keys = [key for key in built.keys if key[0] != "general.alignment"]
    stated = rng.choice((built.alignment, built.alignment, 32, 0, 3, 2**31))
    built.keys.append(("general.alignment", rng.choice((U32, U32, U32, U64, I32)), stated))
    built.keys[-1] = (built.keys[-1][0], built.keys[-1][1], _as(built.keys[-1][1], stated))
    return f"alignment {built.alignment}, stated {stated}"


def _gap(rng: random.Random, built: Built) -> str:
    built.gap = rng.choice((1, 32, 64))
    return f"gaps of {built.gap}"


def _version(rng: random.Random, built: Built) -> str:
    built.version = rng.choice((0, 1, 2, 3, 4, 99, 0x30000, 0x03000000))
    return f"version {built.version:#x}"


def _big_endian(rng: random.Random, built: Built) -> str:
    built.order = ">"
    return "big-endian"


def _cut(rng: random.Random, built: Built) -> tuple[str, bytes]:
    raw = built.bytes()
    header = len(built.header())
    end = rng.choice((rng.randrange(header), rng.randrange(len(raw)), header, len(raw) - 1, len(raw) - 33))
    return f"cut at {end} of {len(raw)}", raw[: max(0, end)]


def _longer(rng: random.Random, built: Built) -> tuple[str, bytes]:
    built.pad_end = rng.random() < 0.5
    more = rng.choice((0, 1, 32, 1000))
    return f"{more} bytes more, last padding {built.pad_end}", built.bytes() + b"x" * more


def _flip(rng: random.Random, built: Built) -> tuple[str, bytes]:
    raw = bytearray(built.bytes())
    header = len(built.header())
    places = [rng.randrange(header) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
    for at in places:
        raw[at] ^= 1 << rng.randrange(8)
    return f"bits flipped at {places}", bytes(raw)


def _number(rng: random.Random, built: Built) -> tuple[str, bytes]:
    raw = bytearray(built.bytes())
    header = len(built.header())
    layout = rng.choice(("<I", "<Q", "<H", "<B"))
    at = rng.choice((4, 8, 16, rng.randrange(header - 8), rng.randrange(header - 8), rng.randrange(header - 8)))
    value = rng.choice((*_EDGES, 2**64 - 1)) & (2 ** (8 * struct.calcsize(layout)) - 1)
    struct.pack_into(layout, raw, at, value)
    return f"{value} as {layout} at {at}", bytes(raw)


def _bytes_moved(rng: random.Random, built: Built) -> tuple[str, bytes]:
    raw = built.bytes()
    at = rng.randrange(len(built.header()))
    n = rng.choice((1, 2, 4, 8, 32))
    if rng.random() < 0.5:
        return f"{n} bytes cut out at {at}", raw[:at] + raw[at + n :]
    return f"{n} bytes put in at {at}", raw[:at] + rng.randbytes(n) + raw[at:]


DAMAGES: tuple[Damage, ...] = (
    _other_type,
    _scalar_and_array,
    _other_value,
    _array_length,
    _drop_key,
    _twice_key,
    _new_key,
    _rename_key,
    _swap_keys,
    _drop_tensor,
    _twice_tensor,
    _rename_tensor,
    _extra_tensor,
    _move_tensor,
    _shape,
    _type,
    _data_length,
    _alignment,
    _gap,
    _version,
    _big_endian,
    _cut,
    _longer,
    _flip,
    _number,
    _bytes_moved,
)


def damaged(seed: int, built: Built) -> tuple[str, bytes]:
    """What was done to the model, and the bytes of the file. The same for the same seed."""
    rng = random.Random(seed)
    done: list[str] = []
    n = rng.choice((1, 1, 1, 2))
    for _ in range(n):
        try:
            made = rng.choice(DAMAGES)(rng, built)
        except (IndexError, ValueError):  # nothing left to damage in this way
            continue
        if isinstance(made, tuple):
            return "; ".join([*done, made[0]]), made[1]
        done.append(made)
    return "; ".join(done) or "untouched", built.bytes()


def _key(rng: random.Random, built: Built) -> int:
    """A key; those that a head depends on more often than the rest."""
    near = [i for i, key in enumerate(built.keys) if "block_count" in key[0] or "nextn" in key[0] or key[1] == ARR]
    return rng.choice(near) if near and rng.random() < 0.4 else rng.randrange(len(built.keys))


def _tensor(rng: random.Random, built: Built) -> int:
    near = [i for i, tensor in enumerate(built.tensors) if ".nextn." in tensor[0]]
    return rng.choice(near) if near and rng.random() < 0.4 else rng.randrange(len(built.tensors))
