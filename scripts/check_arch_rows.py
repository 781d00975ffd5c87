"""Compare the rows in mtpgraft/arch with a llama.cpp source tree.

    python scripts/check_arch_rows.py --llama-src LLAMA_CPP [--build 11434] [--arch qwen35]

For every row: the tensors of a head block and which of them are required, what happens when they are missing,
whether a graph runs them and which it asserts, the per-layer arrays, the root tensors of a sidecar. Prints
what differs; exit code 1 when something does. Run it on a new llama.cpp release to see what to look at.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lcpp_loader import HELPER_MEMBERS, Loader
from lcpp_source import SourceError, Tree, parse, read_tree, split_top

from mtpgraft.arch import ArchSpec, GraphSupport, LoadPolicy, Need, all_specs
from mtpgraft.arch.spec import COMPANION_BASES, COMPANION_SUFFIXES, READ_BUILD


@dataclass(frozen=True, slots=True)
class Facts:
    """What the source says about one architecture."""

    required: frozenset[str]
    known: frozenset[str]
    """Without those in a branch that depends on the model."""
    possible: frozenset[str]
    """With them."""
    one_of: frozenset[str]
    """Those that llama.cpp's helpers take in one of several forms."""
    asserted: frozenset[str]
    policy: LoadPolicy
    graph: GraphSupport
    arrays: frozenset[str]
    """Per-layer keys whose length must be block_count."""
    trunk_arrays: frozenset[str]
    """Per-layer keys whose length must be the trunk's."""
    unchecked_arrays: frozenset[str]
    sidecar_roots: frozenset[str]
    known_roots: frozenset[str]


def read_facts(tree: Tree, arch: str) -> Facts:
    """Raises SourceError when the architecture is not there or written in an unknown way."""
    cls = tree.classes.get(arch)
    if cls is None:
        raise SourceError("not an architecture of this tree")
    body = tree.function(cls, "load_arch_tensors")
    hparams = tree.function(cls, "load_arch_hparams")
    if body is None or hparams is None:
        raise SourceError("no load_arch_tensors or load_arch_hparams")
    head, sidecar = Loader(tree.tensors), Loader(tree.tensors, sidecar=True)
    if "LLM_TENSOR_NEXTN_" in body:
        head.run(parse(body))
        sidecar.run(parse(body))
    blocks = [c for c in head.created if c.in_block] if head.saw_head else []
    roots = [c for c in sidecar.created if not c.in_block]
    graph, asserted = _graph(tree, cls, head.members)
    arrays, trunk, unchecked = _arrays(tree, hparams)
    return Facts(
        required=frozenset(c.name for c in blocks if c.required and "ONE_OF" not in c.flags),
        known=frozenset(c.name for c in blocks if c.sure),
        possible=frozenset(c.name for c in blocks),
        one_of=frozenset(c.name for c in blocks if "ONE_OF" in c.flags),
        asserted=asserted,
        policy=_policy(body, hparams, head, all("NOT_REQUIRED" in c.flags for c in blocks)),
        graph=graph,
        arrays=arrays,
        trunk_arrays=trunk,
        unchecked_arrays=unchecked,
        sidecar_roots=frozenset(c.name for c in roots if c.required),
        known_roots=frozenset(c.name for c in roots),
    )


def _policy(body: str, hparams: str, head: Loader, none_required: bool) -> LoadPolicy:
    if "n_layer_nextn = 0" in hparams and "nextn.eh_proj" in hparams:
        return LoadPolicy.RESET
    if not head.saw_head:
        return LoadPolicy.UNHANDLED
    if none_required:
        return LoadPolicy.IGNORED
    return LoadPolicy.TRUNK_PROBE if re.search(r"\btrunk_only\b|\bnextn_flags\(", body) else LoadPolicy.REQUIRED


def _graph(tree: Tree, cls: str, members: dict[str, str]) -> tuple[GraphSupport, frozenset[str]]:
    """Whether a graph runs the head, and the tensors of the block that it asserts."""
    choice = tree.function(cls, "build_arch_graph") or ""
    if "graph_mtp" not in choice:
        plain = tree.function(cls, "graph::graph") or ""
        whole = re.search(r"il < n_layer_nextn;", plain)
        return (GraphSupport.WHOLE if whole else GraphSupport.NONE), frozenset()
    body = tree.function(cls, "graph_mtp::graph_mtp")
    if body is None:
        raise SourceError("build_arch_graph names graph_mtp, and there is none")
    single = re.search(r"GGML_ASSERT\(hparams\.n_layer_nextn == 1\b", body)
    asserted = set()
    for match in re.finditer(r"GGML_ASSERT\((.*?)\);", body, flags=re.S):
        for part in split_top(match[1], "&&"):
            if member := re.fullmatch(r"\s*layer\.([\w.]+)\s*", part):
                name = members.get(member[1]) or HELPER_MEMBERS.get(member[1])
                if name is None:
                    raise SourceError(f"the graph asserts {member[1]}, which the loader does not create")
                asserted.add(name)
    return (GraphSupport.SINGLE if single else GraphSupport.CHAIN), frozenset(asserted)


_LAYERED = r"get_key_or_arr\((LLM_KV_\w+),\s*hparams\.\w+,\s*hparams\.(n_layer_all|n_layer\(\))"


def _arrays(tree: Tree, hparams: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Keys checked against block_count, checked against the trunk's length, and not checked."""
    generic = tree.function("base", "load_hparams") or ""
    checked: set[str] = set()
    trunk: set[str] = set()
    unchecked: set[str] = set()
    for match in re.finditer(_LAYERED, generic + hparams):
        (checked if match[2] == "n_layer_all" else trunk).add(tree.keys[match[1]].removeprefix("%s."))
    for match in re.finditer(r"get_arr\((LLM_KV_\w+),\s*hparams\.(\w+)", hparams):
        if match[2] in tree.per_layer:
            unchecked.add(tree.keys[match[1]].removeprefix("%s."))
    for match in re.finditer(r"get_arr_n\((LLM_KV_\w+)", hparams):  # read to be checked, as >= block_count
        key = tree.keys[match[1]].removeprefix("%s.")
        if key in unchecked:
            checked.add(key)
    if "load_swa_pattern(" in hparams:
        unchecked.add(tree.keys["LLM_KV_ATTENTION_SLIDING_WINDOW_PATTERN"].removeprefix("%s."))
    return frozenset(checked), frozenset(trunk), frozenset(unchecked)


def compare(row: ArchSpec, facts: Facts, build: int) -> list[str]:
    """What the row says and the source does not, or the other way round; one line each."""
    out: list[str] = []

    def differ(what: str, ours: object, theirs: object) -> None:
        if ours != theirs:
            out.append(f"{what}: row {_show(ours)}, source {_show(theirs)}")

    differ("policy", row.policy_at(build), facts.policy)
    differ("graph", row.graph_at(build), facts.graph)
    wanted = {t.name for t in row.tensors if t.need is not Need.OPTIONAL}
    optional = {t.name for t in row.tensors if t.need is Need.OPTIONAL}
    in_alternative = row.known_names() - wanted - optional
    # Where the graph insists on one form of a tensor, the other forms are no use in a row.
    forms = facts.one_of if facts.asserted & facts.one_of else frozenset()
    arrays = {rule.key for rule in row.arrays} | set(row.trunk_arrays)
    per_layer = facts.arrays | facts.trunk_arrays | facts.unchecked_arrays
    for what, names in (
        ("required, not in the row", facts.required - wanted - in_alternative),
        ("asserted by the graph, not required in the row", facts.asserted - wanted),
        ("optional in the row, required", optional & facts.required),
        (
            "optional in the source, required in the row",
            wanted & facts.known - facts.required - facts.asserted,
        ),
        ("known, not in the row", facts.known - row.known_names() - forms),
        ("in the row, unknown to the source", row.known_names() - facts.possible),
        ("per-layer array, not in the row", per_layer - arrays),
        ("array in the row, not read", arrays - per_layer),
        ("array must be as long as the trunk, row extends it", facts.trunk_arrays - set(row.trunk_arrays)),
        ("array is checked, row says not", facts.arrays & {r.key for r in row.arrays if not r.checked}),
        ("array is not checked, row says it is", _loose(facts) & {r.key for r in row.arrays if r.checked}),
    ):
        out += [f"{what}: {name}" for name in sorted(names)]
    if row.sidecar and facts.graph is not GraphSupport.NONE:
        roots = frozenset(row.sidecar_roots)
        out += [f"required in a sidecar, not in the row: {n}" for n in sorted(facts.sidecar_roots - roots)]
        unknown = roots.union(row.sidecar_optional_roots) - facts.known_roots
        out += [f"root of a sidecar in the row, unknown to the source: {n}" for n in sorted(unknown)]
    return out


def _loose(facts: Facts) -> frozenset[str]:
    return facts.unchecked_arrays - facts.arrays


def companion_problems(tree: Tree) -> list[str]:
    """COMPANION_BASES against the generic pass in llama-model.cpp."""
    out = []
    for suffix in COMPANION_SUFFIXES:
        found = re.findall(rf'create_tensor\(tn\((LLM_TENSOR_\w+),\s*"{suffix}",\s*i\)', tree.generic)
        names = {tree.tensors[t].removeprefix("blk.%d.") for t in found}
        out += [f"companions (.{suffix}), not in the list: {n}" for n in sorted(names - COMPANION_BASES)]
        out += [f"companions (.{suffix}), in the list only: {n}" for n in sorted(COMPANION_BASES - names)]
    return out


def rowless(tree: Tree) -> list[str]:
    """Architectures whose own loader creates head tensors, and that have no row."""
    rows = {row.name for row in all_specs()}
    out = []
    for arch, cls in sorted(tree.classes.items()):
        if arch not in rows and "LLM_TENSOR_NEXTN_" in tree.functions.get((cls, "load_arch_tensors"), ""):
            out.append(arch)
    return out


def _show(value: object) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(map(str, value))) or "none"
    return str(getattr(value, "value", value))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--llama-src", type=Path, required=True, help="root of a llama.cpp source tree")
    parser.add_argument("--build", type=int, default=READ_BUILD, help=f"its build number (default {READ_BUILD})")
    parser.add_argument("--arch", action="append", help="only this architecture (repeatable)")
    args = parser.parse_args()
    tree = read_tree(args.llama_src)
    n_bad = 0
    for row in all_specs():
        if args.arch and row.name not in args.arch:
            continue
        if not row.is_mtp:
            print(f"{row.name}: no MTP head, not compared")
            continue
        try:
            lines = compare(row, read_facts(tree, row.name), args.build)
        except SourceError as error:
            lines = [f"not compared: {error}"]
        n_bad += bool(lines)
        print(f"{row.name}: " + ("as in the source" if not lines else f"{len(lines)} to look at"))
        for line in lines:
            print(f"    {line}")
    if not args.arch:
        for line in (*companion_problems(tree), *(f"architecture without a row: {a}" for a in rowless(tree))):
            print(line)
            n_bad += 1
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
