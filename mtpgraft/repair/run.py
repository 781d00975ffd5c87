"""Audit, strategy, donor, plan, write, verify, try: one repair in one function."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from mtpgraft.audit.build import mended_name
from mtpgraft.audit.deep import head_norms
from mtpgraft.audit.gguf import Judged
from mtpgraft.audit.run import judged_deeply, siblings_of
from mtpgraft.audit.values import Finding, Verdict, overall
from mtpgraft.compare import same_bytes
from mtpgraft.container import GGUFModel
from mtpgraft.errors import RefusedError, UsageError
from mtpgraft.head import Head, find_head
from mtpgraft.kinship import read_norms
from mtpgraft.modelspec import HubSpec, LocalSpec, parse_spec
from mtpgraft.open import open_model
from mtpgraft.plan import GraftOptions, SurgeryPlan, plan_graft
from mtpgraft.plan.mend import Mend, is_shifted_norm, plan_mend
from mtpgraft.plan.values import CopyBytes
from mtpgraft.repair.donors import choose_donor, head_fits
from mtpgraft.repair.smoke import Smoke, smoke_test
from mtpgraft.repair.strategy import Action, Strategy, strategy_for
from mtpgraft.source.local import LocalFile
from mtpgraft.source.splits import find_local_shards
from mtpgraft.surgery import RunOptions, opened_result, publish, require_ok
from mtpgraft.verify import Check, VerifyReport, verify_graft
from mtpgraft.write import Progress, check_targets, write_plan

_GOOD = (Verdict.OK, Verdict.LOW_QUANT)


@dataclass(frozen=True, slots=True)
class NormChange:
    """A norm's mean (of its first values) before and after a shift."""

    tensor: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a repair will do. plan: None when there is nothing to do."""

    target: str
    out: Path
    verdict: Verdict
    findings: tuple[Finding, ...]
    strategy: Strategy
    donor: str | None = None
    donor_why: str | None = None
    plan: SurgeryPlan | None = None
    norms: tuple[NormChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did. report: None when nothing was written. after: the audit of the result."""

    diagnosis: Diagnosis
    report: VerifyReport | None = None
    after: Verdict | None = None
    smoke: Smoke | None = None


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """out: None means beside the model, or in the working folder for a remote one. confirm: asked with the diagnosis
    before anything is written or downloaded; False ends the repair there. smoke: try the result in llama.cpp."""

    out: str | Path | None = None
    in_place: bool = False
    overwrite: bool = False
    donor: str | Path | None = None
    wanted_type: str = "q8_0"
    dry_run: bool = False
    smoke: bool = True
    confirm: Callable[[Diagnosis], bool] | None = None
    on_write: Progress | None = None
    on_verify: Progress | None = None


def repair(spec: str | Path, options: RepairOptions | None = None) -> Repaired:
    """Mend the head of one model.

    Raises RefusedError when it cannot be mended, saying why, and what opening, planning and writing raise.
    """
    options = options or RepairOptions()
    parsed = parse_spec(spec)
    if isinstance(parsed, LocalSpec) is False and options.in_place:
        raise UsageError("a remote model is not mended in place", file=spec, hint="give -o OUT.gguf")
    out = _target(spec, parsed, options)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mtpgraft-repair-")))
        base = stack.enter_context(open_model(spec))
        donor_path = None if options.donor is None else _named_donor(stack, options.donor, work, options)
        diagnosis = _diagnose(stack, base, str(spec), out, work, donor_path, options)
        if diagnosis.plan is None:
            return Repaired(diagnosis)
        _refuse_own_input(diagnosis, base, options)
        if not options.dry_run:
            check_targets(diagnosis.plan, overwrite=options.overwrite or options.in_place)
        if options.confirm is not None and not options.confirm(diagnosis):
            return Repaired(diagnosis)
        if options.dry_run:
            return Repaired(diagnosis)
        if isinstance(parsed, HubSpec):
            base = stack.enter_context(open_model(_downloaded(parsed)))
            again = _diagnose(stack, base, str(spec), out, work, diagnosis.donor, options)
            diagnosis = replace(again, donor_why=diagnosis.donor_why)
        report, after = _carry_out(diagnosis, base, options)
    smoke = smoke_test(out, out.stat().st_size) if options.smoke else None
    return Repaired(diagnosis, report, after, smoke)


def _diagnose(
    stack: ExitStack, base: GGUFModel, label: str, out: Path, work: Path, donor_path: str | None, options: RepairOptions
) -> Diagnosis:
    """Audit, strategy, donor and plan of a repair. Nothing is written but a donor's head, into `work` or the cache."""
    siblings = siblings_of(Path(base.name)) if isinstance(base.shards[0].source, LocalFile) else []
    judged = judged_deeply(base, label, siblings)
    verdict = overall(judged.findings, judged.otherwise)
    strategy = strategy_for(judged, donor_path is not None)
    plain = Diagnosis(label, out, verdict, judged.findings, strategy)
    if strategy.action is Action.NOTHING:
        return plain
    if strategy.action is Action.CANNOT or judged.head is None:
        raise RefusedError(f"cannot be mended: {strategy.why}", file=label, found=verdict.value)
    donor: GGUFModel | None = None
    why: str | None = None
    if donor_path is not None:
        donor, why = stack.enter_context(open_model(donor_path)), "as named"
    elif strategy.needs_donor:
        choice = choose_donor(base, judged.head, parse_spec(label))
        donor_path, why = _named_donor(stack, choice.spec, work, options), choice.why
        donor = stack.enter_context(open_model(donor_path))
    strategy, plan = _planned(base, judged, strategy, donor, out, options)
    norms = _norm_changes(base, judged.head, strategy.norm_shift) if strategy.action is not Action.GRAFT else ()
    used = donor if donor is not None and (strategy.needs_donor or plan.donor) else None
    return replace(
        plain,
        strategy=strategy,
        donor=None if used is None else used.name,
        donor_why=None if used is None else why,
        plan=plan,
        norms=norms,
    )


def _named_donor(stack: ExitStack, spec: str | Path, work: Path, options: RepairOptions) -> str:
    """A local GGUF, or a remote one in a dry run, with the head of the donor that the user names."""
    from mtpgraft.acquire import local_donor

    return stack.enter_context(local_donor(spec, work, run=RunOptions(dry_run=options.dry_run)))


def _planned(
    base: GGUFModel, judged: Judged, strategy: Strategy, donor: GGUFModel | None, out: Path, options: RepairOptions
) -> tuple[Strategy, SurgeryPlan]:
    """The plan, and the strategy as it turned out: tensors of two different heads are never mixed."""
    head = judged.head
    assert head is not None
    donor_head = find_head(donor) if donor is not None else None
    to_fill = strategy.action is Action.FILL and donor is not None and donor_head is not None
    if to_fill and not head_fits(base, head, donor, donor_head):
        why = f"{strategy.why}; the donor's head is not the same one: the whole head is replaced"
        strategy = Strategy(Action.GRAFT, why)
    if strategy.action is Action.GRAFT:
        assert donor is not None
        assert donor_head is not None
        graft = GraftOptions(options.wanted_type, replace=bool(head.blocks))
        return strategy, plan_graft(base, head, donor, donor_head, out, graft)
    mend = Mend(strategy.norm_shift, strategy.action is Action.FILL, options.wanted_type)
    return strategy, plan_mend(base, head, out, mend, donor, donor_head)


def _carry_out(diagnosis: Diagnosis, base: GGUFModel, options: RepairOptions) -> tuple[VerifyReport, Verdict]:
    plan = diagnosis.plan
    assert plan is not None
    written = write_plan(plan, options.on_write, compare=True)
    try:
        with opened_result(written) as result:
            report = verify_graft(result, base, None, options.on_verify, proven=written.proven())
            report = replace(report, checks=(*report.checks, _kept_check(plan, result)))
            judged = judged_deeply(result, diagnosis.target, ())
            after = overall(judged.findings, judged.otherwise)
            report = replace(report, checks=(*report.checks, _audit_check(after, judged)))
        require_ok(plan, report, "a whole donor (--donor) may help")
        with ExitStack() as replaced:
            if options.in_place:
                replaced.callback(base.close)
            publish(written, replaced)
    finally:
        written.discard()
    return report, after


def _audit_check(after: Verdict, judged: Judged) -> Check:
    bad = next((f for f in judged.findings if f.verdict is after), None)
    detail = "" if bad is None or after in _GOOD else f"{bad.rule.id} {bad.rule.title}: {bad.observed}"
    return Check("audit of the result", after in _GOOD, "ok", after.value, detail)


def _kept_check(plan: SurgeryPlan, result: GGUFModel) -> Check:
    """Head tensors that are copied have the bytes that they came from."""
    wanted = [t for t in plan.files[0].tensors if t.head_block is not None and isinstance(t.data, CopyBytes)]
    n_equal, first_bad = 0, ""
    for planned in wanted:
        tensor = result.tensor_by_name.get(planned.name)
        data = planned.data
        assert isinstance(data, CopyBytes)
        if tensor is not None and same_bytes(
            result.source_of(tensor), tensor.offset, data.source, data.offset, planned.n_bytes, lambda n: None
        ):
            n_equal += 1
        elif not first_bad:
            first_bad = planned.name
    name = "copied head tensors: every byte"
    return Check(name, n_equal == len(wanted), f"{len(wanted)} equal", f"{n_equal} equal", first_bad)


def _norm_changes(base: GGUFModel, head: Head, shift: float) -> tuple[NormChange, ...]:
    if not shift:
        return ()
    names = tuple(tensor.name for tensor in head_norms(head) if is_shifted_norm(tensor))
    changes = []
    for sample in read_norms(base, names):
        mean = sum(sample.values) / len(sample.values)
        changes.append(NormChange(sample.name, mean, mean + shift))
    return tuple(changes)


def _refuse_own_input(diagnosis: Diagnosis, base: GGUFModel, options: RepairOptions) -> None:
    for shard in base.shards:
        path = Path(shard.source.name)
        if diagnosis.out.exists() and path.exists() and diagnosis.out.samefile(path):
            if not options.in_place:
                raise RefusedError("would overwrite its own input", file=diagnosis.out, hint="--in-place replaces it")
            if base.is_split:
                raise RefusedError("a split set is not mended in place", file=diagnosis.out, hint="give -o OUT.gguf")


def _target(spec: str | Path, parsed: object, options: RepairOptions) -> Path:
    if options.in_place:
        if options.out is not None:
            raise UsageError("give either -o OUT.gguf or --in-place")
        return Path(str(spec))
    if options.out is not None:
        return Path(options.out)
    if not isinstance(parsed, LocalSpec):
        return Path(mended_name(str(spec)))
    first = find_local_shards(parsed.path)[0]
    return first.with_name(mended_name(first.name))


def _downloaded(spec: HubSpec) -> Path:
    """The remote model's files, whole, through the Hugging Face cache; the path of the first."""
    from huggingface_hub import hf_hub_download

    from mtpgraft.source.hub import open_repo

    repo = open_repo(spec)
    paths = [
        Path(hf_hub_download(repo.repo_id, path, revision=repo.commit, endpoint=repo.endpoint))
        for path in repo.select_gguf(spec)
    ]
    return paths[0]
