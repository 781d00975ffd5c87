"""How keys change when a head comes or goes. Every other key keeps its bytes and its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mtpgraft import __version__
from mtpgraft.arch import ArchSpec, ArrayRule
from mtpgraft.container import GGUFModel, Key, Scalar, ValueType
from mtpgraft.container.encode import array_from_bytes, encode_values, make_array, make_key, renamed
from mtpgraft.errors import InvalidFileError, RefusedError
from mtpgraft.head import Head
from mtpgraft.plan.values import KeyChange, show

OWN = "mtpgraft."
UNDO = "mtpgraft.undo."
UNDO_ADDED = "mtpgraft.undo.added"
UNDO_SIZE = "mtpgraft.undo.file_size"
HEAD_SHA256 = "mtpgraft.head_sha256"
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


@dataclass(frozen=True, slots=True)
class HeadKeys:
    """A model's keys with a head's declaration put in or taken out, and what that changed."""

    keys: tuple[Key, ...]
    changes: tuple[KeyChange, ...]
    warnings: tuple[str, ...] = ()


def declare_head(
    base: GGUFModel,
    keys: tuple[Key, ...],
    n_trunk: int,
    n_head: int,
    donor: GGUFModel,
    donor_head: Head,
    spec: ArchSpec | None,
) -> HeadKeys:
    """`keys` with block_count, nextn_predict_layers and every per-layer array saying: n_trunk + n_head blocks.

    Raises RefusedError when an array has a length that fits neither the trunk nor the whole, or when no value for a
    head block is known.
    """
    arch = base.architecture
    by_name = {key.name: key for key in keys}
    new: dict[str, Key] = {}
    block_count = by_name[f"{arch}.block_count"]
    new[block_count.name] = with_value(block_count, n_trunk + n_head)
    nextn_name = f"{arch}.nextn_predict_layers"
    nextn = by_name.get(nextn_name)
    new[nextn_name] = (
        make_key(nextn_name, ValueType.UINT32, n_head, base.byte_order) if nextn is None else with_value(nextn, n_head)
    )
    for rule in _array_rules(arch, spec, keys, n_trunk, donor, donor_head):
        key = by_name.get(f"{arch}.{rule.key}")
        if key is not None and key.is_array:
            new[key.name] = _grown(base, key, rule, n_trunk, n_head, donor, donor_head)
    out: list[Key] = []
    for key in keys:
        out.append(new.get(key.name, key))
        if key.name == block_count.name and nextn is None:
            out.append(new[nextn_name])
    return HeadKeys(tuple(out), key_changes(keys, out))


def undeclare_head(model: GGUFModel, head: Head) -> HeadKeys:
    """The model's keys without a head: what mtpgraft recorded is restored, or else lowered and shortened."""
    undo = {key.name: key for key in model.keys if key.name.startswith(UNDO)}
    if undo:
        return _restored(model, head, undo)
    arch = model.architecture
    n_trunk, n_head = head.n_trunk, len(head.blocks)
    names = {f"{arch}.{rule.key}" for rule in head.spec.arrays} if head.spec else None
    out: list[Key] = []
    for key in model.keys:
        if key.name == f"{arch}.nextn_predict_layers" or key.name.startswith(OWN):
            continue
        if key.name == f"{arch}.block_count":
            key = with_value(key, n_trunk)
        elif key.is_array and key.n_items == n_trunk + n_head and n_head and _is_per_layer(key, arch, names):
            key = _cut(key, n_trunk)
        out.append(key)
    return HeadKeys(tuple(out), key_changes(model.keys, out))


def provenance(base: GGUFModel, before: Iterable[Key], after: Iterable[Key], donor_name: str) -> tuple[Key, ...]:
    """The mtpgraft.* keys of a graft: who made it, from what, and what strip needs to give the base back."""
    order = base.byte_order
    old = {key.name: key for key in before}
    new = {key.name: key for key in after}
    added = [name for name in new if name not in old]
    saved = [renamed(old[n], UNDO + n) for n in old if n not in new or bytes(new[n].record) != bytes(old[n].record)]
    keys = [
        make_key("mtpgraft.version", ValueType.STRING, __version__, order),
        make_key("mtpgraft.donor", ValueType.STRING, donor_name, order),
        make_key(HEAD_SHA256, ValueType.STRING, "0" * 64, order),
        make_array(UNDO_ADDED, ValueType.STRING, added, order),
        *saved,
    ]
    if not base.is_split:
        keys.append(make_key(UNDO_SIZE, ValueType.UINT64, base.size, order))
    return tuple(keys)


def with_value(key: Key, value: Scalar) -> Key:
    """The same scalar key, of the same type, with another value."""
    return make_key(key.name, key.type, value, key.byte_order)


def key_changes(before: Iterable[Key], after: Iterable[Key]) -> tuple[KeyChange, ...]:
    """What differs, mtpgraft's own keys left out: changed and removed ones in the old order, then added ones."""
    old = {key.name: key for key in before if not key.name.startswith(OWN)}
    new = {key.name: key for key in after if not key.name.startswith(OWN)}
    changed = [
        KeyChange(name, show(key), show(new.get(name)))
        for name, key in old.items()
        if name not in new or bytes(new[name].record) != bytes(key.record)
    ]
    return (*changed, *(KeyChange(name, None, show(key)) for name, key in new.items() if name not in old))


def _array_rules(
    arch: str, spec: ArchSpec | None, keys: tuple[Key, ...], n_trunk: int, donor: GGUFModel, donor_head: Head
) -> tuple[ArrayRule, ...]:
    if spec is not None:
        return spec.arrays
    # Without a row: an array of the architecture that is as long as the trunk here and as the whole in the donor.
    prefix = arch + "."
    whole = donor_head.n_trunk + len(donor_head.blocks)
    rules = []
    for key in keys:
        theirs = donor.key(key.name)
        if theirs is None or not theirs.is_array or theirs.n_items != whole:
            continue
        if key.name.startswith(prefix) and key.is_array and key.n_items == n_trunk:
            rules.append(ArrayRule(key.name[len(prefix) :]))
    return tuple(rules)


def _grown(
    base: GGUFModel, key: Key, rule: ArrayRule, n_trunk: int, n_head: int, donor: GGUFModel, donor_head: Head
) -> Key:
    if key.n_items == n_trunk + n_head:
        return key  # a base that declared a head it does not hold may have the right length already
    if key.n_items != n_trunk:
        raise RefusedError(
            "a per-layer array has a length that fits neither the trunk nor the whole model",
            file=base.name,
            where=f"key {key.name}",
            expected=f"{n_trunk} or {n_trunk + n_head}",
            found=key.n_items,
        )
    assert key.item_type is not None
    values = [_head_value(key, rule, donor, donor_head, number) for number in range(n_head)]
    raw = bytes(key.value_bytes()) + encode_values(key.item_type, values, key.byte_order)
    return array_from_bytes(key.name, key.item_type, n_trunk + n_head, raw, key.byte_order)


def _head_value(key: Key, rule: ArrayRule, donor: GGUFModel, donor_head: Head, number: int) -> Scalar:
    """The value of a per-layer key for a head block: the donor's own, else the architecture's default."""
    theirs = donor.key(key.name)
    index = donor_head.n_trunk + number
    if theirs is not None and not theirs.is_array:
        return theirs.scalar()
    if theirs is not None and theirs.n_items > index:
        return theirs.items()[index]
    if rule.default is not None:
        return rule.default
    raise RefusedError(
        "the donor does not say what this per-layer array holds for the head",
        file=donor.name,
        where=f"key {key.name}",
        expected=f"a value, or an array of more than {index}",
        found="nothing" if theirs is None else f"{theirs.n_items} items",
        hint="extract the head again with mtpgraft extract, which keeps these keys",
    )


def _is_per_layer(key: Key, arch: str, names: set[str] | None) -> bool:
    return key.name in names if names is not None else key.name.startswith(arch + ".")


def _cut(key: Key, n_items: int) -> Key:
    assert key.item_type is not None
    return make_array(key.name, key.item_type, key.items()[:n_items], key.byte_order)


def _restored(model: GGUFModel, head: Head, undo: dict[str, Key]) -> HeadKeys:
    added = set(undo[UNDO_ADDED].items()) if UNDO_ADDED in undo else set()
    saved = {name[len(UNDO) :]: renamed(key, name[len(UNDO) :]) for name, key in undo.items()}
    out = [saved.get(key.name, key) for key in model.keys if not key.name.startswith(OWN) and key.name not in added]
    _check_restored(model, head, {key.name: key for key in out})
    return HeadKeys(tuple(out), key_changes(model.keys, out))


def _check_restored(model: GGUFModel, head: Head, restored: dict[str, Key]) -> None:
    """Raise InvalidFileError when the recorded keys cannot be those of a base of this file: graft never changes what
    the data's place hangs on, and a block count outside these bounds makes a file that llama.cpp refuses."""
    wrong: str | None = None
    for name in ("general.architecture", "general.alignment"):
        before, after = model.key(name), restored.get(name)
        if (before and bytes(before.record)) != (after and bytes(after.record)):
            wrong = name
    count = restored.get(f"{head.architecture}.block_count")
    if count is None or count.type is not ValueType.UINT32:
        wrong = f"{head.architecture}.block_count"
    elif not max(1, head.n_trunk) <= int(count.scalar()) <= head.block_count:
        wrong = count.name
    if wrong is not None:
        raise InvalidFileError(
            "its record of how it was before the graft is damaged",
            file=model.name,
            where=f"key {UNDO}{wrong}" if f"{UNDO}{wrong}" in model.shards[0].key_by_name else f"key {UNDO_ADDED}",
            hint="take the base from where it came from",
        )
