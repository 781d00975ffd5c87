"""Each operation from open files to a published, verified result: plan -> write -> verify -> publish."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mtpgraft.container import GGUFModel
from mtpgraft.errors import MtpgraftError, RefusedError
from mtpgraft.head import find_head
from mtpgraft.open import open_model
from mtpgraft.plan import DONOR, GraftOptions, SurgeryPlan, plan_extract, plan_graft, plan_strip
from mtpgraft.verify import VerifyReport, verify_extract, verify_graft, verify_strip
from mtpgraft.write import Progress, Written, check_targets, write_plan


class NotVerifiedError(MtpgraftError):
    """What was written does not prove to be what was planned; it was not published."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A plan, and the proof of its result; report is None after a dry run."""

    plan: SurgeryPlan
    report: VerifyReport | None


@dataclass(frozen=True, slots=True)
class RunOptions:
    """dry_run: plan only. overwrite: replace existing files. in_place: the result takes the input's name.

    on_write, on_verify: called with bytes done since the last call.
    """

    dry_run: bool = False
    overwrite: bool = False
    in_place: bool = False
    on_write: Progress | None = None
    on_verify: Progress | None = None
    on_plan: Callable[[SurgeryPlan], None] | None = None


def extract(
    donor: str | Path, out: Path, kind: str = DONOR, wanted_type: str = "keep", run: RunOptions | None = None
) -> Outcome:
    """Take a donor's head out into a head file ("donor") or a sidecar ("sidecar")."""
    run = run or RunOptions()
    with open_model(donor) as model:
        plan = plan_extract(model, find_head(model), out, kind, wanted_type)
        return _carry_out(plan, run, [model], lambda new: verify_extract(new, model, run.on_verify))


def graft(
    base: str | Path, donor: str | Path, out: Path, options: GraftOptions | None = None, run: RunOptions | None = None
) -> Outcome:
    """Put a donor's head onto a base."""
    run = run or RunOptions()
    with open_model(base) as base_model, open_model(donor) as donor_model:
        plan = plan_graft(
            base_model, find_head(base_model), donor_model, find_head(donor_model), out, options or GraftOptions()
        )  # fmt: skip
        return _carry_out(
            plan,
            run,
            [base_model, donor_model],
            lambda new: verify_graft(new, base_model, donor_model, run.on_verify),
        )


def strip(model: str | Path, out: Path, run: RunOptions | None = None) -> Outcome:
    """Remove the head of a model."""
    run = run or RunOptions()
    with open_model(model) as opened:
        plan = plan_strip(opened, find_head(opened), out)
        return _carry_out(plan, run, [opened], lambda new: verify_strip(new, opened, run.on_verify))


def _carry_out(
    plan: SurgeryPlan, run: RunOptions, inputs: list[GGUFModel], verify: Callable[[GGUFModel], VerifyReport]
) -> Outcome:
    _refuse_own_input(plan, inputs, in_place=run.in_place)
    check_targets(plan, overwrite=run.overwrite or run.in_place)
    if run.on_plan is not None:
        run.on_plan(plan)
    if run.dry_run:
        return Outcome(plan, None)
    written = write_plan(plan, run.on_write)
    try:
        with _opened(written) as result:
            report = verify(result)
        if not report.ok:
            bad = next(check for check in report.checks if not check.ok)
            raise NotVerifiedError(
                f"the result did not verify and was not kept: {bad.name}",
                file=plan.files[0].path, where=bad.detail or None, expected=bad.expected, found=bad.observed,
                hint="the inputs are untouched; if they are sound, this is a bug worth reporting",
            )  # fmt: skip
        written.publish()
    finally:
        written.discard()
    return Outcome(plan, report)


@contextmanager
def _opened(written: Written) -> Iterator[GGUFModel]:
    """The model that the temporary files make up (their names do not look like a split set's)."""
    from mtpgraft.container import gguf_from_sources
    from mtpgraft.source.local import LocalFile

    sources = [LocalFile.open(temporary) for temporary, _ in written.files]
    try:
        yield gguf_from_sources(list(sources))
    finally:
        for source in sources:
            source.close()


def _refuse_own_input(plan: SurgeryPlan, inputs: list[GGUFModel], *, in_place: bool) -> None:
    for file in plan.files:
        for model in inputs:
            for shard in model.shards:
                same = file.path.exists() and file.path.samefile(shard.source.name)
                if same and not (in_place and model is inputs[0] and not model.is_split):
                    raise RefusedError(
                        "would overwrite its own input", file=file.path,
                        hint="choose another name, or --in-place to replace the base",
                    )  # fmt: skip
