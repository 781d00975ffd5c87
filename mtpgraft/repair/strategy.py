"""From findings to what has to be done: nothing, a mend of the head that is there, or a graft; or why neither."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mtpgraft.audit import rules
from mtpgraft.audit.gguf import Judged
from mtpgraft.audit.values import Verdict, overall
from mtpgraft.head import HeadState


class Action(Enum):
    """What a repair does."""

    NOTHING = "nothing"
    """There is nothing to mend."""
    CANNOT = "cannot"
    """No command mends it."""
    MEND = "mend"
    """The head is kept; keys, names or norms are put right."""
    FILL = "fill"
    """The head is kept, what it lacks comes from a donor."""
    GRAFT = "graft"
    """A donor's head takes its place."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """action, and why in words. norm_shift: added to the head's norms (MEND)."""

    action: Action
    why: str
    norm_shift: float = 0.0

    @property
    def needs_donor(self) -> bool:
        return self.action in (Action.FILL, Action.GRAFT)


_NO_COMMAND = {
    rules.NO_GRAPH.id: "no llama.cpp graph runs a head of this architecture; mtpgraft strip saves its bytes",
    rules.NOT_LOADED.id: "llama.cpp's loader knows no head of this architecture; mtpgraft strip takes it out",
    rules.OTHER_NAMES.id: "its head tensors have another program's names: take a conversion by llama.cpp",
    rules.UNKNOWN_ARCH.id: "mtpgraft does not know what a head of this architecture needs",
    rules.TRUNCATED.id: "bytes are missing: download the file again",
    rules.CORRUPT.id: "its bytes break the format: download the file again",
    rules.TRUNK_ARRAY.id: "an array of the trunk was changed, and what it held is not known: take the original file",
}
_REPLACE = frozenset(
    {
        *(rules.WRONG_SHAPE.id, rules.BOTH_FORMS.id, rules.NOT_FINITE.id, rules.ALL_ZERO.id, rules.CONSTANT.id),
        *(rules.BAD_SCALES.id, rules.OTHER_MODEL.id, rules.TOO_FEW.id),
    }
)
_OWN = frozenset(
    {
        *(rules.ORPHAN.id, rules.MOVED.id, rules.SHORT_ARRAY.id, rules.SILENT_ARRAY.id, rules.TOO_MANY.id),
        *(rules.FOREIGN_TENSOR.id, rules.GAPS.id, rules.NORMS_RAW.id, rules.NORMS_TWICE.id),
    }
)


def strategy_for(judged: Judged, donor_given: bool) -> Strategy:
    """What mends a model with these findings. donor_given: the user named a donor, and so wants its head."""
    found = {finding.rule.id: finding for finding in judged.findings}
    verdict = overall(judged.findings, judged.otherwise)
    for rule_id, why in _NO_COMMAND.items():
        if rule_id in found:
            return Strategy(Action.CANNOT, why)
    head = judged.head
    if head is None or verdict is Verdict.NOT_MTP:
        return Strategy(Action.CANNOT, "the architecture has no MTP head")
    if head.state in (HeadState.SIDECAR, HeadState.HEAD_FILE):
        return Strategy(Action.CANNOT, "it is a head, not a model: make a new one with mtpgraft extract")
    if head.spec is not None and head.spec.refuse_graft:
        return Strategy(Action.CANNOT, head.spec.refuse_graft)
    if not head.blocks:
        return _headless(verdict, judged, donor_given)
    if _REPLACE & found.keys():
        worst = next(found[rule_id] for rule_id in found if rule_id in _REPLACE)
        return Strategy(Action.GRAFT, f"{worst.rule.title} ({worst.observed}): the whole head is replaced")
    shift = 1.0 if rules.NORMS_RAW.id in found else -1.0 if rules.NORMS_TWICE.id in found else 0.0
    if rules.MISSING_TENSOR.id in found:
        lacking = [f.expected for f in judged.findings if f.rule is rules.MISSING_TENSOR]
        return Strategy(Action.FILL, f"missing: {', '.join(lacking)}", shift)
    if _OWN & found.keys():
        titles = [f.rule.title for f in judged.findings if f.rule.id in _OWN]
        return Strategy(Action.MEND, "; ".join(dict.fromkeys(titles)), shift)
    if donor_given:
        return Strategy(Action.GRAFT, "its head is replaced by the donor's, as asked")
    if rules.LOW_QUANT.id in found:
        return Strategy(Action.NOTHING, "its head works; below Q8_0 it may draft worse: --donor replaces it")
    return Strategy(Action.NOTHING, "its head is whole")


def _headless(verdict: Verdict, judged: Judged, donor_given: bool) -> Strategy:
    made = next((f for f in judged.findings if f.verdict is verdict), None)
    why = made.rule.title if made else "it has no head"
    if verdict is Verdict.UNKNOWN and not donor_given:
        return Strategy(Action.CANNOT, f"{why}: name a donor with --donor if it had one")
    return Strategy(Action.GRAFT, why)
