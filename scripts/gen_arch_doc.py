"""Write docs/architectures.md from the rows in mtpgraft/arch.

python scripts/gen_arch_doc.py            write it
python scripts/gen_arch_doc.py --check    exit code 1 when the file is not what the rows say
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mtpgraft.arch import ArchSpec, ArrayRule, GraphSupport, LoadPolicy, Need, all_specs
from mtpgraft.arch.common import generic_arrays
from mtpgraft.arch.spec import READ_BUILD, REFERENCE_BUILD

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "docs" / "architectures.md"

INTRO = f"""\
# Architectures

<!-- Written by scripts/gen_arch_doc.py from mtpgraft/arch. Change the rows, not this file. -->

What llama.cpp does with the MTP head of each architecture, and what mtpgraft does about it.
*Architecture* is the value of `general.architecture`, which `mtpgraft inspect` prints. One that is not
listed is handled by the general rule, with a warning: its head is every block from
`block_count - nextn_predict_layers` on.

The rows were read from llama.cpp's source at build b{READ_BUILD} and hold at b{REFERENCE_BUILD}. What
older builds do differently is said in the details, as "from b...": the first build seen to behave so,
which may be a little later than the change.

- **Heads run**: *one* means that drafting aborts when a file declares more; *a chain* means one head per
  draft step, so that a draft is never longer than the number of heads; *none* means that the head is
  carried in the file and `--spec-type draft-mtp` cannot use it.
- **If declared but missing**: what happens when `nextn_predict_layers` promises a head and its tensors
  are not there (`mtpgraft audit` calls it `declared-missing`).
- **Arrays that grow**: keys that hold one value per block, and get one more for each head block. False
  or a number is what is appended; *donor* is the donor's own value, which also wins over a fixed one where
  the two differ. In every architecture {{generic}} grow too, where they are arrays: a key that is stored
  as a single value, as most are, stays as it is.
- **Sidecar**: whether llama.cpp loads the head from a file of its own with `-md`.
"""

DETAILS = """\
## Details

Tensors are named without their `blk.N.` prefix and without `.weight`. A file whose head block holds a
tensor that is not listed does not load (`wrong number of tensors`). NVFP4 weights come with `.scale` and
`.input_scale` tensors, which belong to them.
"""

HEADS = {
    GraphSupport.SINGLE: "one",
    GraphSupport.CHAIN: "a chain",
    GraphSupport.WHOLE: "all, as one",
    GraphSupport.NONE: "none",
}

MISSING = {
    LoadPolicy.REQUIRED: "does not load",
    LoadPolicy.TRUNK_PROBE: "loads without a word; draft-mtp aborts",
    LoadPolicy.RESET: "nothing is expected of a head: every block must be a trunk block",
    LoadPolicy.IGNORED: "loads, as it does with a head",
    LoadPolicy.UNHANDLED: "loads; with a head it does not",
}

GENERIC = frozenset(rule.key for rule in generic_arrays()) | {"expert_feed_forward_length"}


def page() -> str:
    rows = all_specs()
    runs = [row for row in rows if row.refuse_graft is None and row.graph is not GraphSupport.NONE]
    carried = [row for row in rows if row.refuse_graft is None and row.graph is GraphSupport.NONE]
    refused = [row for row in rows if row.refuse_graft is not None]
    parts = [
        INTRO.replace("{generic}", ", ".join(f"`{key}`" for key in sorted(GENERIC))),
        "## Heads that llama.cpp runs\n\n" + _table(runs),
        "## Heads that are carried and not run\n\n"
        "mtpgraft extracts, grafts and strips them, and says that nothing will be drafted.\n\n" + _table(carried),
        "## No graft\n\n" + _refusals(refused),
        DETAILS,
        *(_detail(row) for row in rows),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _table(rows: list[ArchSpec]) -> str:
    lines = [
        "| architecture | models | heads run | if declared but missing | arrays that grow | sidecar |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        own = [_array(rule) for rule in row.arrays if rule.key not in GENERIC or rule.default is not None]
        cells = (
            f"[`{row.name}`](#{row.name})",
            row.title,
            HEADS[row.graph],
            MISSING[row.policy],
            "<br>".join(own) or "only the general ones",
            "yes" if row.sidecar else "no",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _refusals(rows: list[ArchSpec]) -> str:
    lines = ["| architecture | models | why |", "|---|---|---|"]
    lines += [f"| [`{row.name}`](#{row.name}) | {row.title} | {row.refuse_graft} |" for row in rows]
    return "\n".join(lines)


def _array(rule: ArrayRule) -> str:
    value = "donor" if rule.default is None else str(rule.default).lower()
    return f"`{rule.key}` + {value}" + ("" if rule.checked else " (length not checked)")


def _detail(row: ArchSpec) -> str:
    lines = [f"### {row.name}\n", row.title + ".\n"]
    if row.hf_architectures:
        lines.append("- Converts with a head: " + _names(row.hf_architectures))
    required = [t.name for t in row.tensors if t.need is Need.REQUIRED]
    unused = [t.name for t in row.tensors if t.need is Need.UNUSED]
    optional = [t for t in row.tensors if t.need is Need.OPTIONAL]
    if required:
        lines.append("- Required: " + _tensors(required))
    for alternative in row.alternatives:
        options = " *or* ".join(_tensors(option) for option in alternative.options)
        lines.append(("- All or none: " if len(alternative.options) == 1 else "- One of: ") + options)
    if unused:
        lines.append("- Required by the loader, not read by the head: " + _tensors(unused))
    if optional:
        plain = [t.name for t in optional if t.fallback is None]
        backed = [f"{_tensors([t.name])} (else {_tensors([t.fallback])})" for t in optional if t.fallback]
        lines.append("- Optional: " + ", ".join([*([_tensors(plain)] if plain else []), *backed]))
    if row.trunk_arrays:
        lines.append("- Arrays that stay as long as the trunk: " + _names(row.trunk_arrays))
    if row.sidecar:
        roots = _tensors(row.sidecar_roots)
        if row.sidecar_optional_roots:
            roots += "; where the donor has them: " + _tensors(row.sidecar_optional_roots)
        if row.sidecar_drop_keys:
            roots += "; without the keys " + _names(
                f"{key}*" if key.endswith(".") else key for key in row.sidecar_drop_keys
            )
        lines.append("- A sidecar also holds: " + roots)
    if row.separate_drafter:
        lines.append(f"- Drafter: a file of architecture `{row.separate_drafter}`")
    lines += [f"- From b{note.build}: {note.text}" for note in row.notes]
    lines += [f"- {_sentence(remark)}" for remark in row.remarks]
    lines.append(f"- Source: {row.source}")
    return "\n".join(lines)


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a name."""
    return text[0].upper() + text[1:] if text.split()[0].isalpha() else text


def _tensors(names: Iterable[str]) -> str:
    return _names(name.removesuffix(".weight") for name in names)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is out of date")
    args = parser.parse_args()
    text = page()
    if args.check:
        if OUTPUT.is_file() and OUTPUT.read_text(encoding="utf-8") == text:
            return 0
        print(f"{OUTPUT.relative_to(ROOT)} is out of date: run python scripts/gen_arch_doc.py", file=sys.stderr)
        return 1
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
