"""Each operation from open files to a published, verified result: plan -> write -> verify -> publish."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mtpgraft.compare import Proven
from mtpgraft.container import MAX_HEADER_NBYTES, GGUFModel, gguf_from_sources
from mtpgraft.errors import MtpgraftError, RefusedError
from mtpgraft.head import find_head
from mtpgraft.inplace import CannotMoveError, NoMove, apply_in_place, locked, plan_move, recover_if_needed
from mtpgraft.modelspec import LocalSpec, parse_spec
from mtpgraft.open import open_donor, open_model
from mtpgraft.plan import DONOR, GraftOptions, SurgeryPlan, plan_extract, plan_graft, plan_strip
from mtpgraft.source.base import Source
from mtpgraft.source.local import LocalFile
from mtpgraft.verify import Samples, VerifyReport, verify_extract, verify_graft, verify_strip
from mtpgraft.write import Progress, Written, check_targets, write_plan

if TYPE_CHECKING:
    from mtpgraft.container.checkpoint import Checkpoint


_REPLACES_OPEN_FILES = os.name != "nt"
"""Windows gives no file the name of one that is open."""


class NotVerifiedError(MtpgraftError):
    """What was written does not prove to be what was planned; it was not published."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A plan, and the proof of its result; report is None after a dry run.

    moved: the trunk was moved by the file system, not copied.
    """

    plan: SurgeryPlan
    report: VerifyReport | None
    moved: bool = False


Verify = Callable[[GGUFModel, Samples | None, tuple[Proven, ...]], VerifyReport]
"""Proves a result. Samples are given instead of the base's trunk when that is no more; then, what is proven already."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """dry_run: plan only. overwrite: replace existing files. in_place: the result takes the input's name,
        by moving the data inside the file where the file system can, else by a copy that replaces it.

    on_write, on_verify: called with bytes done since the last call. on_plan: called with the plan, before all else.
    max_header_nbytes: largest header that is read.
    """

    dry_run: bool = False
    overwrite: bool = False
    in_place: bool = False
    on_write: Progress | None = None
    on_verify: Progress | None = None
    on_plan: Callable[[SurgeryPlan], None] | None = None
    max_header_nbytes: int = MAX_HEADER_NBYTES


def extract(
    donor: str | Path, out: str | Path, kind: str = DONOR, wanted_type: str = "keep", run: RunOptions | None = None
) -> Outcome:
    """Take a donor's head out into a head file ("donor") or a sidecar ("sidecar").

    Of a safetensors checkpoint the tensors are converted as llama.cpp's converter does.
    """
    run, out = run or RunOptions(), Path(out)
    with open_donor(donor, run.max_header_nbytes) as model:
        if not isinstance(model, GGUFModel):
            return _extract_from_checkpoint(model, out, kind, wanted_type, run)
        plan = plan_extract(model, find_head(model), out, kind, wanted_type)
        return _carry_out(plan, run, [model], lambda new, _, proven: verify_extract(new, model, run.on_verify, proven))


def _extract_from_checkpoint(
    checkpoint: Checkpoint, out: Path, kind: str, wanted_type: str, run: RunOptions
) -> Outcome:
    from mtpgraft.hf import plan_extract_checkpoint, refuse_sidecar, verify_extract_checkpoint

    if kind != DONOR:
        raise refuse_sidecar(checkpoint)
    plan = plan_extract_checkpoint(checkpoint, out, wanted_type)
    _refuse_overwriting(plan, checkpoint.sources)
    return _carry_out(plan, run, [], lambda new, _, __: verify_extract_checkpoint(new, checkpoint, run.on_verify))


def graft(
    base: str | Path,
    donor: str | Path,
    out: str | Path,
    options: GraftOptions | None = None,
    run: RunOptions | None = None,
) -> Outcome:
    """Put a donor's head onto a base. The donor is a GGUF; `api.graft` takes checkpoints too."""
    run, out = run or RunOptions(), Path(out)
    refuse_remote(base)
    _end_what_was_interrupted(out, run)
    cap = run.max_header_nbytes
    with open_model(base, cap) as base_model, open_model(donor, cap) as donor_model:
        plan = plan_graft(
            base_model, find_head(base_model), donor_model, find_head(donor_model), out, options or GraftOptions()
        )  # fmt: skip
        return _carry_out(
            plan,
            run,
            [base_model, donor_model],
            lambda new, samples, proven: verify_graft(new, base_model, donor_model, run.on_verify, samples, proven),
        )


def strip(model: str | Path, out: str | Path, run: RunOptions | None = None) -> Outcome:
    """Remove the head of a model."""
    run, out = run or RunOptions(), Path(out)
    refuse_remote(model)
    _end_what_was_interrupted(out, run)
    with open_model(model, run.max_header_nbytes) as opened:
        plan = plan_strip(opened, find_head(opened), out)
        return _carry_out(
            plan, run, [opened], lambda new, samples, proven: verify_strip(new, opened, run.on_verify, samples, proven)
        )


def refuse_remote(model: str | Path) -> None:
    """Raise RefusedError unless this is a path on this machine."""
    spec = parse_spec(model)
    if not isinstance(spec, LocalSpec):
        raise RefusedError(
            "a remote model is not changed: its trunk would have to be downloaded whole",
            file=str(spec), hint="hf download ORG/REPO FILE, then give the local path",
        )  # fmt: skip


def _carry_out(plan: SurgeryPlan, run: RunOptions, inputs: list[GGUFModel], verify: Verify) -> Outcome:
    _refuse_own_input(plan, inputs, in_place=run.in_place)
    moves = run.in_place and plan.files[0].path.exists()
    if not moves:
        check_targets(plan, overwrite=run.overwrite or run.in_place)
    if run.on_plan is not None:
        run.on_plan(plan)
    if run.dry_run:
        return Outcome(plan, None)
    if moves:
        return _in_place(plan, run, inputs[0], verify)
    return _copy(plan, run, verify)


def _copy(
    plan: SurgeryPlan, run: RunOptions, verify: Verify, mode: int = 0o666, replaced: ExitStack | None = None
) -> Outcome:
    """Write the whole result beside its final name, verify it, publish it. replaced: what `publish` takes."""
    written = write_plan(plan, run.on_write, mode=mode, compare=True)
    try:
        with opened_result(written) as result:
            report = verify(result, None, written.proven())
        require_ok(plan, report)
        publish(written, replaced)
    finally:
        written.discard()
    return Outcome(plan, report)


def publish(written: Written, replaced: ExitStack | None = None) -> None:
    """Give the written files their names. replaced: closes the file that has one of them now."""
    if replaced is not None and not _REPLACES_OPEN_FILES:
        replaced.close()
    written.publish()


def _in_place(plan: SurgeryPlan, run: RunOptions, base: GGUFModel, verify: Verify) -> Outcome:
    """Change the base where it lies; where that cannot be done, say why and copy."""
    reports: list[VerifyReport] = []

    def check(result: GGUFModel, samples: Samples) -> None:
        reports.append(verify(result, samples, ()))
        require_ok(plan, reports[-1])

    move = plan_move(plan, base)
    if isinstance(move, NoMove):
        reason = move.reason
    else:
        try:
            apply_in_place(move, base, check, run.on_write)
            return Outcome(plan, reports[-1], moved=True)
        except CannotMoveError as error:
            reason = error.what
    plan = replace(plan, warnings=(*plan.warnings, f"not changed in place but copied and replaced: {reason}"))
    path = plan.files[0].path
    with ExitStack() as replaced:
        replaced.enter_context(locked(path))
        replaced.callback(base.close)
        check_targets(plan, overwrite=True)
        return _copy(plan, run, verify, path.stat().st_mode & 0o7777, replaced)


def require_ok(
    plan: SurgeryPlan, report: VerifyReport, advice: str = "if they are sound, this is a bug worth reporting"
) -> None:
    """Raise NotVerifiedError, naming the first check that fails, unless all hold."""
    if not report.ok:
        bad = next(check for check in report.checks if not check.ok)
        raise NotVerifiedError(
            f"the result did not verify and was not kept: {bad.name}",
            file=plan.files[0].path, where=bad.detail or None, expected=bad.expected, found=bad.observed,
            hint=f"the inputs are untouched; {advice}",
        )  # fmt: skip


def _end_what_was_interrupted(path: Path, run: RunOptions) -> None:
    """Before a change in place: bring the file out of an earlier one that was killed."""
    if run.in_place and not run.dry_run:
        recover_if_needed(path)


@contextmanager
def opened_result(written: Written) -> Iterator[GGUFModel]:
    """The model that the temporary files make up (their names do not look like a split set's)."""
    sources = [LocalFile.open(temporary) for temporary, _ in written.files]
    try:
        yield gguf_from_sources(list(sources))
    finally:
        for source in sources:
            source.close()


def _refuse_own_input(plan: SurgeryPlan, inputs: list[GGUFModel], *, in_place: bool) -> None:
    """Refuse to write over what is read; in place, only the base itself, and only a single file, is written over."""
    for number, model in enumerate(inputs):
        may_replace = in_place and number == 0 and not model.is_split
        if not may_replace:
            _refuse_overwriting(plan, [shard.source for shard in model.shards])


def _refuse_overwriting(plan: SurgeryPlan, sources: Iterable[Source]) -> None:
    local = [source.path for source in sources if isinstance(source, LocalFile)]
    for file in plan.files:
        if file.path.exists() and any(file.path.samefile(path) for path in local):
            raise RefusedError(
                "would overwrite its own input",
                file=file.path,
                hint="choose another name, or --in-place to replace the base",
            )
