"""Judges one open GGUF by its header."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mtpgraft.arch import GraphSupport, LoadPolicy
from mtpgraft.arch.shipping import Ships, shipping_of
from mtpgraft.arch.spec import COMPANION_SUFFIXES
from mtpgraft.audit import rules
from mtpgraft.audit.build import at, finding, when_missing, without_graph
from mtpgraft.audit.upstream import Upstream, model_names
from mtpgraft.audit.values import AuditResult, Finding, Rule, Verdict, overall
from mtpgraft.container import TENSOR_TYPES, GGUFModel
from mtpgraft.head import Head, HeadState, find_head
from mtpgraft.plan.types import is_below_q8

_N_TYPES = 43  # GGML_TYPE_COUNT @ b11434
_NOT_IN_LLAMA_CPP = frozenset({4, 5, 31, 32, 33, 36, 37, 38})
_OTHER_NAMES = re.compile(r"^(?:.*\.)?mtp\.|^model\.mtp_layers\.|^nextn\.(?!pre_projection|post_projection)")
_NOT_MODELS = ("adapter", "imatrix", "mmproj", "vocab", "control_vector")
_OTHERWISE = {
    HeadState.OK: Verdict.OK,
    HeadState.SIDECAR: Verdict.SIDECAR,
    HeadState.HEAD_FILE: Verdict.SIDECAR,
    HeadState.PARTIAL: Verdict.PARTIAL,
    HeadState.ORPHAN: Verdict.ORPHAN,
}

# How head.py words its problems, and the rule that each is. A test holds every wording against this list.
_PROBLEMS: tuple[tuple[str, Rule], ...] = (
    ("missing tensor", rules.MISSING_TENSOR),
    ("unknown tensor", rules.FOREIGN_TENSOR),
    ("too many tensors", rules.BOTH_FORMS),
    (" has shape ", rules.WRONG_SHAPE),
    ("was not raised", rules.NOT_RAISED),
    ("exceeds block_count", rules.MOVED),
    ("the head is at", rules.MOVED),
    ("outside the declared", rules.MOVED),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """One model by its header. head: None for what is no language model."""

    label: str
    model: GGUFModel
    head: Head | None
    findings: tuple[Finding, ...]
    otherwise: Verdict

    def result(self, more: tuple[Finding, ...] = (), fetched_nbytes: int = 0) -> AuditResult:
        """The audit's result, with findings of other kinds added."""
        head, findings = self.head, (*self.findings, *more)
        return AuditResult(
            target=self.label,
            verdict=overall(findings, self.otherwise),
            architecture=head.architecture if head else self.model.text("general.architecture"),
            n_head_blocks=len(head.blocks) if head else 0,
            head_types=head.types if head else {},
            findings=findings,
            n_bytes=self.model.size,
            head_nbytes=head.n_bytes if head else 0,
            fetched_nbytes=fetched_nbytes,
        )


def judge(model: GGUFModel, label: str, upstream: Upstream | None = None) -> Judged:
    """Hold a model's header against every rule that needs no data. upstream: what is known of the original.

    Raises InvalidFileError for a language model without a usable block count.
    """
    layout = _layout_findings(model, label)
    if _is_no_model(model):
        seen = model.text("general.type") or model.text("general.architecture") or "no architecture"
        only = finding(rules.NO_MODEL, label, "a language model", seen, ("key general.type",))
        return Judged(label, model, None, (*layout, only), Verdict.NOT_MTP)
    head = find_head(model)
    if head.state is HeadState.NOT_MTP:
        return Judged(label, model, head, (*layout, _no_head_arch(head, label)), Verdict.NOT_MTP)
    found = [*layout, *_other_names(model, label)]
    if head.state is HeadState.NONE:
        if not found or all(f.verdict is None for f in found):
            found.append(headless(model, head, label, upstream))
        return Judged(label, model, head, tuple(found), Verdict.UNKNOWN)
    if head.state is HeadState.DECLARED_MISSING:
        found.append(_declared_missing(model, head, label))
        return Judged(label, model, head, tuple(found), Verdict.DECLARED_MISSING)
    found += _problems(model, head, label)
    found += _arrays(model, head, label)
    found += _companions(head, label)
    found += _support(head, label)
    if head.state in (HeadState.SIDECAR, HeadState.HEAD_FILE):
        found += _sidecar(model, head, label)
    found += _quality(head, label)
    return Judged(label, model, head, tuple(found), _OTHERWISE[head.state])


def headless(model: GGUFModel, head: Head, label: str, upstream: Upstream | None) -> Finding:
    """What it means that this file has no head, given what is known of its original."""
    spec, arch = head.spec, head.architecture
    keys = (f"key {arch}.nextn_predict_layers: {'absent' if head.declared is None else head.declared}",)
    if spec is None:
        return _no_head_arch(head, label)
    shipping = shipping_of(spec)
    if shipping.ships is Ships.UNUSED:
        return _no_head_arch(head, label)
    if shipping.ships is Ships.SEPARATELY:
        what = f"a drafter file of architecture {spec.separate_drafter or arch}"
        return finding(rules.SEPARATE, label, what, "no head in the model's own file", keys)
    names = model_names(model)
    seen = (*keys, *(f"upstream {name}: {why}" for name, why in _unread(upstream)))
    if upstream is not None and upstream.has_head is not None:
        evidence = (*keys, *upstream.evidence)
        if upstream.has_head:
            return finding(rules.DROPPED, label, f"the head that {upstream.names[0]} has", "no head", evidence)
        return finding(
            rules.UPSTREAM_HEADLESS, label, "a head in the upstream", f"none in {upstream.names[0]}", evidence
        )
    expects = shipping.expects_head((*names, label))
    if expects:
        assumed = (
            f"assumed: the models of architecture {arch} ({spec.title}) ship a head; the upstream was not read, and a "
            "finetune that was saved without its head would look the same"
        )
        return finding(rules.DROPPED, label, f"a head, as {spec.title} models ship one", "no head", (*seen, assumed))
    return finding(rules.MAY_HAVE, label, "not known", "no head", (*seen, *spec.remarks[:1]))


def _unread(upstream: Upstream | None) -> list[tuple[str, str]]:
    if upstream is None or not upstream.names:
        return []
    return [(upstream.names[0], "; ".join(upstream.evidence) or "not read")]


def _is_no_model(model: GGUFModel) -> bool:
    kind = model.text("general.type")
    if kind in _NOT_MODELS:
        return True
    arch = model.text("general.architecture")
    if arch is None:
        return kind is not None and kind != "model"  # a model without an architecture is corrupt: find_head says so
    return model.hparam("block_count") is None and not any(t.name.startswith("blk.") for t in model.tensors)


def _no_head_arch(head: Head, label: str) -> Finding:
    spec = head.spec
    why = f"architecture {head.architecture}"
    if spec is None:
        why += ", for which mtpgraft knows no MTP head"
    elif spec.is_mtp and spec.graph is GraphSupport.NONE:
        why += ", whose heads no llama.cpp graph runs"
    return finding(rules.NO_HEAD_ARCH, label, "an architecture with a head", why, ("key general.architecture",))


def _layout_findings(model: GGUFModel, label: str) -> list[Finding]:
    found = [
        finding(rules.GAPS, label, "offsets without gaps, in table order", "gaps", (f"file {shard.source.name}",))
        for shard in model.shards
        if shard.has_gaps
    ]
    if model.byte_order == ">":
        found.append(finding(rules.BIG_ENDIAN, label, "little-endian", "big-endian", ("the version in its header",)))
    foreign = [t for t in model.tensors if t.type_id >= _N_TYPES or t.type_id in _NOT_IN_LLAMA_CPP]
    if foreign:
        names = sorted({t.type.name for t in foreign})
        observed = f"{len(foreign)} tensors of type {', '.join(names[:6])}"
        known = all(t.type_id in TENSOR_TYPES for t in foreign)
        fix = "" if known else "not known to mtpgraft: is it up to date?"
        expected = f"types below {_N_TYPES}"
        found.append(finding(rules.FOREIGN_TYPES, label, expected, observed, (at(foreign[0]),), fix=fix))
    return found


def _other_names(model: GGUFModel, label: str) -> list[Finding]:
    odd = [t for t in model.tensors if _OTHER_NAMES.search(t.name)]
    if not odd:
        return []
    evidence = tuple(at(t) for t in odd[:5])
    return [finding(rules.OTHER_NAMES, label, "head tensors named blk.N.*", f"{len(odd)} others", evidence)]


def _declared_missing(model: GGUFModel, head: Head, label: str) -> Finding:
    rule = rules.NOT_RAISED if any("was not raised" in p for p in head.problems) else rules.DECLARED_MISSING
    expected = (
        f"tensors of blk.{head.n_trunk}" if rule is rules.DECLARED_MISSING else "block_count with the head's blocks"
    )
    evidence = _declaration(model, head)
    observed = head.problems[0] if head.problems else "none"
    consequence = when_missing(head.spec) if rule is rules.DECLARED_MISSING else ""
    return finding(rule, label, expected, observed, evidence, consequence)


def _declaration(model: GGUFModel, head: Head) -> tuple[str, ...]:
    arch = head.architecture
    declared = "absent" if head.declared is None else str(head.declared)
    return (f"key {arch}.block_count = {head.block_count}", f"key {arch}.nextn_predict_layers = {declared}")


def _problems(model: GGUFModel, head: Head, label: str) -> list[Finding]:
    found = []
    for problem in head.problems:
        rule = next((rule for words, rule in _PROBLEMS if words in problem), rules.MISSING_TENSOR)
        if rule is rules.MISSING_TENSOR:
            what = problem.split(" ", 2)[2]
            found.append(finding(rule, label, what, "absent", _declaration(model, head), _when_absent(head, problem)))
        elif rule is rules.WRONG_SHAPE:
            tensor = model.tensor_by_name[problem.split(" ")[1]]
            expected = problem.rpartition("expected ")[2]
            found.append(finding(rule, label, expected, str(list(tensor.shape)), (at(tensor),)))
        elif rule is rules.FOREIGN_TENSOR:
            tensor = model.tensor_by_name[problem.split(" ")[2].rstrip(":")]
            expected = f"tensors that {head.architecture} heads have"
            found.append(finding(rule, label, expected, tensor.name, (at(tensor),)))
        elif rule is rules.BOTH_FORMS:
            found.append(finding(rule, label, "one of the two forms", problem))
        else:
            found.append(finding(rule, label, "keys and tensors that agree", problem, _declaration(model, head)))
    n_declared, n_present = head.declared or 0, len(head.blocks)
    if n_declared > n_present and not any(f.rule is rules.MOVED for f in found):
        observed = f"{n_present} head block(s)"
        found.append(finding(rules.TOO_FEW, label, f"{n_declared}", observed, _declaration(model, head)))
    if n_declared < n_present and not found:
        expected = f"{head.architecture}.nextn_predict_layers = {n_present}"
        found.append(
            finding(rules.ORPHAN, label, expected, str(n_declared), (*_declaration(model, head), at(head.tensors[0])))
        )
    elif head.declared and head.block_count != head.n_trunk + n_present and not found:
        found.append(finding(rules.MOVED, label, f"block_count {head.n_trunk + n_present}", str(head.block_count)))
    return found


def _when_absent(head: Head, problem: str) -> str:
    """Which of a head's tensors llama.cpp insists on, and when: seen at b11549 on broken files."""
    name = problem.rsplit(" ", 1)[-1]
    if "nextn.eh_proj" in name:
        return when_missing(head.spec)
    if problem.startswith("missing tensors in"):
        return "llama.cpp loads it (b11549); with draft-mtp it refuses it: `not found`"
    return f"llama.cpp refuses it (b11549), with or without draft-mtp: `tensor '{name}' not found`"


def _arrays(model: GGUFModel, head: Head, label: str) -> list[Finding]:
    spec = head.spec
    if spec is None or head.state is HeadState.ORPHAN:
        return []
    found = []
    for rule in spec.arrays:
        key = model.hparam(rule.key)
        if key is None or not key.is_array or key.n_items == head.block_count:
            continue
        if key.n_items > head.block_count and (not rule.checked or rule.key.endswith("compress_ratios")):
            continue  # longer is fine to llama.cpp
        broken = rules.SHORT_ARRAY if rule.checked else rules.SILENT_ARRAY
        evidence = (f"key {key.name}", *((rule.source,) if rule.source else ()))
        found.append(finding(broken, label, f"{head.block_count} items", f"{key.n_items} items", evidence))
    for name in spec.trunk_arrays:
        key = model.hparam(name)
        if key is not None and key.is_array and key.n_items != head.n_trunk and head.blocks:
            expected, observed = f"{head.n_trunk} items", f"{key.n_items} items"
            found.append(finding(rules.TRUNK_ARRAY, label, expected, observed, (f"key {key.name}",)))
    return found


def _companions(head: Head, label: str) -> list[Finding]:
    scales = [t for t in head.tensors if t.name.rpartition(".")[2] in COMPANION_SUFFIXES]
    return [finding(rules.COMPANIONS, label, "none", f"{len(scales)} tensors", (at(scales[0]),))] if scales else []


def _support(head: Head, label: str) -> list[Finding]:
    spec = head.spec
    if spec is None:
        return [finding(rules.UNKNOWN_ARCH, label, "a known architecture", head.architecture, head.assumptions)]
    observed = f"{len(head.blocks)} head block(s)"
    if spec.policy is LoadPolicy.UNHANDLED:
        return [finding(rules.NOT_LOADED, label, "no head tensors", observed, (spec.source,))]
    if spec.graph is GraphSupport.NONE:
        return [finding(rules.NO_GRAPH, label, "a graph for the head", f"none for {spec.name}", (spec.source,))]
    if spec.graph is GraphSupport.SINGLE and len(head.blocks) > 1:
        return [finding(rules.TOO_MANY, label, "1 head block", observed, (spec.source,))]
    older = without_graph(spec)
    evidence = tuple(f"from b{note.build}: {note.text}" for note in spec.notes)
    return [finding(rules.NEEDS_BUILD, label, "a current build", older, evidence, older)] if older else []


def _sidecar(model: GGUFModel, head: Head, label: str) -> list[Finding]:
    observed = (
        f"head of {len(head.blocks)} block(s) from blk.{head.blocks[0].index}, {head.n_trunk} trunk blocks declared"
    )
    if head.state is HeadState.HEAD_FILE:
        return [finding(rules.HEAD_FILE, label, "a trunk", "the head alone", (observed,))]
    found = [finding(rules.SIDECAR, label, "a trunk", "the head and root tensors", (observed,))]
    roots = head.spec.sidecar_roots if head.spec else ()
    lacking = [name for name in roots if name not in model.tensor_by_name]
    if lacking:
        found.append(finding(rules.SIDECAR_ROOTS, label, ", ".join(roots), f"{', '.join(lacking)} absent"))
    return found


def _quality(head: Head, label: str) -> list[Finding]:
    low = [tensor for tensor in head.tensors if is_below_q8(tensor)]
    if not low:
        return []
    observed = f"{len(low)} of {len(head.tensors)} tensors: {', '.join(sorted({t.type.name for t in low}))}"
    return [finding(rules.LOW_QUANT, label, "Q8_0 or better", observed, tuple(at(t) for t in low))]
