"""Sidecars and the models beside them: which fits which, and what llama.cpp's search by file name would do."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mtpgraft.arch import ArchSpec, GraphSupport
from mtpgraft.audit import rules
from mtpgraft.audit.build import finding
from mtpgraft.audit.gguf import Judged
from mtpgraft.audit.values import Finding, Verdict
from mtpgraft.head import HeadState, block_index
from mtpgraft.kinship import n_tokens

_MARK = "mtp-"
"""What llama.cpp's `-hf` looks for in a sibling's name, in lower case (common/download.cpp:531-605 @ b11434)."""

_NO_HEAD = (rules.DROPPED, rules.UPSTREAM_HEADLESS, rules.MAY_HAVE)


@dataclass(frozen=True, slots=True)
class Profile:
    """What has to agree between a sidecar and its model.

    width: of the hidden state; of an assistant with a width of its own, of the model it is for.
    findings, otherwise: what its header alone gave.
    """

    label: str
    file_name: str
    architecture: str
    spec: ArchSpec | None
    state: HeadState
    width: int | None
    n_tokens: int | None
    n_trunk: int
    is_assistant: bool
    has_trunk: bool
    has_embedding: bool
    findings: tuple[Finding, ...]
    otherwise: Verdict

    @property
    def is_sidecar(self) -> bool:
        return not self.has_trunk and self.has_embedding

    @property
    def is_model(self) -> bool:
        return self.has_trunk and self.state is not HeadState.NOT_MTP


def profile_of(judged: Judged) -> Profile | None:
    """The profile of a judged model; None for what is no language model."""
    head, model = judged.head, judged.model
    if head is None:
        return None
    is_assistant = head.spec is not None and head.spec.graph is GraphSupport.WHOLE
    target_width = model.count("embedding_length_out") if is_assistant else None
    blocks = {-1 if (index := block_index(tensor.name)) is None else index for tensor in model.tensors}
    return Profile(
        label=judged.label,
        file_name=model.name.replace("\\", "/").rsplit("/", 1)[-1],
        architecture=head.architecture,
        spec=head.spec,
        state=head.state,
        width=target_width or model.count("embedding_length"),
        n_tokens=n_tokens(model),
        n_trunk=head.n_trunk,
        is_assistant=is_assistant,
        has_trunk=any(0 <= index < head.n_trunk for index in blocks),
        has_embedding="token_embd.weight" in model.tensor_by_name,
        findings=judged.findings,
        otherwise=judged.otherwise,
    )


def needs_siblings(profile: Profile, sibling_names: Iterable[str]) -> bool:
    """Whether a file audited by itself can only be judged together with the files beside it."""
    separate = profile.spec is not None and profile.spec.separate_drafter is not None
    return profile.is_sidecar or separate or any(_MARK in name for name in sibling_names)


def matched(profile: Profile, siblings: Sequence[Profile]) -> tuple[Finding, ...]:
    """The profile's findings together with those that the files beside it give."""
    if profile.is_sidecar:
        return (*profile.findings, *_of_sidecar(profile, siblings))
    if not profile.is_model:
        return profile.findings
    return _of_model(profile, siblings)


def _of_sidecar(sidecar: Profile, siblings: Sequence[Profile]) -> list[Finding]:
    models = [other for other in siblings if other.is_model and _related(sidecar, other)]
    if not models:
        return [finding(rules.SIDECAR_ALONE, sidecar.label, "its model in the same folder", "none")]
    differing = [(model, difference) for model in models if (difference := _difference(sidecar, model))]
    if len(differing) < len(models):
        return []
    evidence = tuple(f"{model.file_name}: {text}" for model, text in differing[:5])
    return [finding(rules.SIDECAR_UNFIT, sidecar.label, "a model of its size beside it", differing[0][1], evidence)]


def _of_model(model: Profile, siblings: Sequence[Profile]) -> tuple[Finding, ...]:
    found = list(model.findings)
    if _MARK in model.file_name and model.state is not HeadState.NOT_MTP:
        found.append(finding(rules.NAME_TRAP, model.label, f"a name without {_MARK}", model.file_name))
    sidecars = [other for other in siblings if other.is_sidecar and _related(other, model)]
    fitting = [other for other in sidecars if _difference(other, model) is None]
    if model.state is HeadState.OK:
        for other in fitting:
            if _MARK in other.file_name:
                evidence = (f"file {other.file_name}",)
                found.append(finding(rules.OVERRIDE, model.label, "one head", "two", evidence))
    if model.state is HeadState.NONE and any(f.rule in _NO_HEAD for f in found):
        found += [_fits(model, other) for other in fitting[:1]]
    if fitting and any(f.rule is rules.SEPARATE for f in found):
        beside = finding(rules.SEPARATE_FOUND, model.label, "its drafter", fitting[0].file_name)
        found = [beside if f.rule is rules.SEPARATE else f for f in found]
    return tuple(found)


def _fits(model: Profile, sidecar: Profile) -> Finding:
    how = rules.SIDECAR_FITS.consequence.replace("SIDECAR", shlex.quote(sidecar.label))
    return finding(rules.SIDECAR_FITS, model.label, "a head", f"the sidecar {sidecar.file_name}", consequence=how)


def _related(sidecar: Profile, model: Profile) -> bool:
    separate = model.spec.separate_drafter if model.spec else None
    return sidecar.architecture == (separate or model.architecture)


def _difference(sidecar: Profile, model: Profile) -> str | None:
    """The first thing in which a sidecar and a model disagree, or None when it fits."""
    pairs = [("width", sidecar.width, model.width), ("vocabulary", sidecar.n_tokens, model.n_tokens)]
    if not sidecar.is_assistant:
        pairs.append(("number of trunk blocks", sidecar.n_trunk, model.n_trunk))
    for what, ours, theirs in pairs:
        if ours is not None and theirs is not None and ours != theirs:
            return f"{what} {ours}, the model's is {theirs}"
    return None
