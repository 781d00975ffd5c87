"""Finds the donor of a repair: the best of the files beside the model, or else of what it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mtpgraft.audit.deep import deep_findings
from mtpgraft.audit.gguf import judge
from mtpgraft.audit.kin import same_head
from mtpgraft.audit.remote import gguf_specs, originals_of
from mtpgraft.audit.run import siblings_of
from mtpgraft.audit.upstream import upstream_repos
from mtpgraft.audit.values import FAILING, overall
from mtpgraft.container import GGUFModel
from mtpgraft.container.checkpoint import Checkpoint
from mtpgraft.errors import MtpgraftError, RefusedError
from mtpgraft.head import Head, find_head
from mtpgraft.kinship import Fingerprint, Kinship, Verdict, compare, kinship, n_tokens, read_norms
from mtpgraft.modelspec import HubSpec, LocalSpec, UrlSpec, parse_spec
from mtpgraft.open import open_donor
from mtpgraft.plan.types import is_below_q8

_RANK = {Verdict.SAME: 0, Verdict.CLOSE: 1, Verdict.UNKNOWN: 2}
_SHAPE_KEYS = ("embedding_length", "attention.key_length", "attention.head_count")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model looked at as a donor. n_bytes: of its head, which is what is read. refused: why it cannot be one."""

    spec: str
    n_bytes: int = 0
    is_low: bool = False
    kin: Verdict = Verdict.UNKNOWN
    explanation: str = ""
    refused: str | None = None

    @property
    def short(self) -> str:
        """Its file's name; of a repo its whole name."""
        return self.spec if self.spec.startswith("hf:") else self.spec.replace("\\", "/").rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Choice:
    """The donor, and why it is the one."""

    spec: str
    why: str


def choose_donor(base: GGUFModel, head: Head, spec: LocalSpec | HubSpec | UrlSpec) -> Choice:
    """The donor for the model at `spec`: of the files beside it, or of its originals, the cheapest in bytes that has a
    sound head of this very model; Q8_0 or better before lower types.

    The originals are asked only when nothing beside it fits. Raises RefusedError, naming what was looked at and why it
    is no donor, when there is none.
    """
    seen: list[Candidate] = []
    for specs in _places(base, spec):
        found = [_candidate(base, head, text) for text in specs]
        seen += found
        # What cannot be compared is never taken unasked: the user can name it.
        fit = [c for c in found if c.refused is None and c.kin is not Verdict.UNKNOWN]
        if fit:
            best = min(fit, key=lambda c: (_RANK[c.kin], c.is_low, c.n_bytes, c.spec))
            why = f"{best.short}: {best.explanation}"
            if len(fit) > 1:
                why += f"; of {len(fit)} with a head the one that costs least, {best.n_bytes} bytes"
            return Choice(best.spec, why)
    looked_at = "; ".join(f"{c.short}: {c.refused or c.explanation}" for c in seen[:6])
    raise RefusedError(
        "no donor was found", file=base.name, expected="a sound head of the same model beside it, or in its original",
        found=looked_at or "no other GGUF file, and no original named",
        hint="name one: --donor FILE, --donor hf:org/repo",
    )  # fmt: skip


def head_fits(base: GGUFModel, head: Head, donor: GGUFModel | None, donor_head: Head | None) -> bool:
    """Whether tensors of the donor's head may stand beside the base's own: the norms they share are the same."""
    if donor is None or donor_head is None:
        return False
    return same_head(base, head, donor, donor_head).verdict in (Verdict.SAME, Verdict.UNKNOWN)


def _places(base: GGUFModel, spec: LocalSpec | HubSpec | UrlSpec) -> Iterable[list[str]]:
    """Where to look, nearest first."""
    originals = list(upstream_repos(base))
    if isinstance(spec, LocalSpec):
        yield [str(path) for path in siblings_of(spec.path)] if spec.path.is_file() else []
    elif isinstance(spec, HubSpec):
        from mtpgraft.source.hub import open_repo

        repo = open_repo(spec)
        own = base.name
        yield [text for text, path in gguf_specs(repo) if f"{repo.name}/{path}" != own]
        originals = [*originals_of(repo), *originals]
    yield [f"hf:{name}" for name in dict.fromkeys(originals)]


def _candidate(base: GGUFModel, head: Head, spec: str) -> Candidate:
    try:
        with open_donor(spec) as donor:
            if isinstance(donor, GGUFModel):
                return _gguf(base, head, donor, spec)
            return _checkpoint(base, head, donor, spec)
    except MtpgraftError as error:
        return Candidate(spec, refused=error.what)


def _gguf(base: GGUFModel, head: Head, donor: GGUFModel, spec: str) -> Candidate:
    if donor.text("general.architecture") != head.architecture:
        return Candidate(spec, refused="another architecture")
    theirs = find_head(donor)
    if not theirs.is_whole:
        return Candidate(spec, refused=f"its head is {theirs.state.value}")
    for name in _SHAPE_KEYS:
        ours, its = base.hparam(name), donor.hparam(name)
        if ours and its and not ours.is_array and not its.is_array and ours.scalar() != its.scalar():
            return Candidate(spec, refused=f"another {name}: {its.scalar()}")
    judged = judge(donor, spec)
    # A remote head's data is not fetched to choose: the result is audited whole before it is kept.
    more = deep_findings(donor, theirs, spec) if isinstance(parse_spec(spec), LocalSpec) else ()
    verdict = overall((*judged.findings, *more), judged.otherwise)
    if verdict in FAILING:
        return Candidate(spec, refused=f"its head is {verdict.value}")
    found = kinship(base, donor)
    if found.verdict is Verdict.UNKNOWN:
        found = _by_output_norm(base, donor)
    if found.verdict is Verdict.DIFFERENT:
        return Candidate(spec, refused=found.explanation)
    low = any(is_below_q8(tensor) for tensor in theirs.tensors)
    return Candidate(spec, theirs.n_bytes, low, found.verdict, found.explanation)


def _checkpoint(base: GGUFModel, head: Head, donor: Checkpoint, spec: str) -> Candidate:
    from mtpgraft.hf import checkpoint_fingerprint
    from mtpgraft.hf.head import find_checkpoint_head

    theirs = find_checkpoint_head(donor)
    if theirs.layout.arch != head.architecture:
        return Candidate(spec, refused="another architecture")
    found = kinship(base, checkpoint_fingerprint(donor))
    if found.verdict is Verdict.DIFFERENT:
        return Candidate(spec, refused=found.explanation)
    origins = {name for part in theirs.parts for name in part.origins}
    n_bytes = sum(donor.tensor(name).n_bytes for name in origins)
    return Candidate(spec, n_bytes, False, found.verdict, found.explanation)


def _by_output_norm(base: GGUFModel, donor: GGUFModel) -> Kinship:
    """What the one norm says that a converter's sidecar shares with its model."""
    ours, theirs = (Fingerprint(read_norms(m, ("output_norm.weight",)), None, n_tokens(m)) for m in (base, donor))
    return compare(ours, theirs)
