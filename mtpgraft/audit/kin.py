"""Is this head of this model? Asked of the originals in the same folder, by the values of trunk and head norms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mtpgraft.audit import rules
from mtpgraft.audit.build import finding
from mtpgraft.audit.upstream import Norms
from mtpgraft.audit.values import Finding
from mtpgraft.container import GGUFModel, open_gguf
from mtpgraft.container.types import BF16, F16, F32
from mtpgraft.errors import MtpgraftError
from mtpgraft.head import Head, HeadState, find_head, significant_dims
from mtpgraft.kinship import Fingerprint, Kinship, Verdict, compare, fingerprint, kinship, read_norms

_PLAIN = (F32, F16, BF16)


@dataclass(frozen=True, slots=True)
class Original:
    """A sibling's head, at the precision it was trained in."""

    file_name: str
    kinship: Kinship


def kin_findings(model: GGUFModel, head: Head, label: str, siblings: Iterable[Path]) -> tuple[Finding, ...]:
    """A finding when the head is another model's than the trunk, by what the files beside it hold.

    A sidecar with a fingerprint is held against the models beside it. A head behind a trunk is held against originals:
    siblings of the same trunk whose head was never quantized.
    """
    if head.state in (HeadState.SIDECAR, HeadState.HEAD_FILE):
        return _of_sidecar(model, head, label, siblings)
    if head.state is not HeadState.OK or is_original(head):
        return ()
    originals = [found for path in siblings if (found := _original(model, head, path)) is not None]
    if not originals or any(o.kinship.verdict is not Verdict.DIFFERENT for o in originals):
        return ()
    first = originals[0]
    evidence = tuple(
        f"{o.file_name}: {o.kinship.n_equal} of {o.kinship.n_values} values of the head's norms are equal"
        for o in originals[:5]
    )
    distance = first.kinship.distance
    observed = f"head norms at distance {distance:.2f}" if distance is not None else "other head norms"
    return (finding(rules.OTHER_MODEL, label, f"the head that {first.file_name} has", observed, evidence),)


def upstream_findings(model: GGUFModel, head: Head, label: str, upstream: Norms) -> tuple[Finding, ...]:
    """A finding when the model is not the upstream that it names, or its head is not that upstream's.

    Sidecars and head files answer by the fingerprint of the trunk that they were made for.
    """
    trunk = compare(fingerprint(model), upstream.trunk)
    if trunk.verdict is Verdict.DIFFERENT:
        return (_other_model(label, f"the trunk norms of {upstream.name}", trunk),)
    if upstream.head is None or head.state not in (HeadState.OK, HeadState.SIDECAR, HeadState.HEAD_FILE):
        return ()
    heads = compare(_head_print(model, head), upstream.head)
    if heads.verdict is not Verdict.DIFFERENT:
        return ()
    return (_other_model(label, f"the head norms of {upstream.name}", heads),)


def _other_model(label: str, expected: str, found: Kinship) -> Finding:
    observed = f"norms at distance {found.distance:.2f}" if found.distance is not None else "other norms"
    evidence = f"{found.n_equal} of {found.n_values} values of {found.n_norms} norms are equal"
    return finding(rules.OTHER_MODEL, label, expected, observed, (evidence,))


def is_original(head: Head) -> bool:
    """Whether the head was never quantized: every tensor is F32, F16 or BF16."""
    return bool(head.tensors) and all(tensor.type_id in _PLAIN for tensor in head.tensors)


def same_head(ours: GGUFModel, our_head: Head, theirs: GGUFModel, their_head: Head) -> Kinship:
    """Two heads compared by their norms, whatever their block index."""
    return compare(_head_print(ours, our_head), _head_print(theirs, their_head))


def _of_sidecar(model: GGUFModel, head: Head, label: str, siblings: Iterable[Path]) -> tuple[Finding, ...]:
    own = fingerprint(model)
    if not own.norms:
        return ()
    found: list[tuple[str, Kinship]] = []
    for path in siblings:
        try:
            with open_gguf(path) as other:
                theirs = find_head(other)
                if theirs.architecture == head.architecture and theirs.state in (HeadState.OK, HeadState.NONE):
                    found.append((path.name, kinship(other, own)))
        except MtpgraftError:
            continue
    known = [(name, kin) for name, kin in found if kin.verdict is not Verdict.UNKNOWN]
    if not known or any(kin.verdict is not Verdict.DIFFERENT for _, kin in known):
        return ()
    evidence = tuple(f"{name}: {kin.explanation}" for name, kin in known[:5])
    return (finding(rules.OTHER_MODEL, label, "the head of a model beside it", "another model's", evidence),)


def _original(model: GGUFModel, head: Head, path: Path) -> Original | None:
    """The head of a sibling of the same trunk, if it is an original; None for every other file."""
    try:
        with open_gguf(path) as other:
            if other.text("general.architecture") != head.architecture:
                return None
            theirs = find_head(other)
            if not theirs.is_whole or not is_original(theirs) or kinship(model, other).verdict is not Verdict.SAME:
                return None
            return Original(path.name, same_head(model, head, other, theirs))
    except MtpgraftError:
        return None


def _head_print(model: GGUFModel, head: Head) -> Fingerprint:
    """The head's norms, named by the number of their block."""
    samples = []
    for number, block in enumerate(head.blocks):
        names = {t.name: block.local_name(t) for t in block.tensors if _is_norm(t.name, t.shape)}
        for sample in read_norms(model, tuple(names)):
            samples.append(type(sample)(f"{number}.{names[sample.name]}", sample.values))
    return Fingerprint(tuple(samples), None, None)


def _is_norm(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith("norm.weight") and len(significant_dims(shape)) == 1
