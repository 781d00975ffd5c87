"""What `import mtpgraft` offers: each operation on whatever a user may name, as the commands do it.

`surgery` works on GGUF files; here a donor may be a safetensors checkpoint or on the Hub too, and what would be refused
in the end is refused before anything of it is fetched.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mtpgraft import surgery
from mtpgraft.acquire import acquire_donor, local_donor
from mtpgraft.head import Head, find_head
from mtpgraft.modelspec import LocalSpec, parse_spec
from mtpgraft.open import open_model
from mtpgraft.plan import DONOR, GraftOptions
from mtpgraft.plan.graft import refuse_unfit_base
from mtpgraft.plan.types import KEEP
from mtpgraft.quantize import parse_type, writable_types
from mtpgraft.surgery import Outcome, RunOptions, strip
from mtpgraft.target import check_target
from mtpgraft.verify import Progress, VerifyReport, verify_graft

__all__ = ["extract", "graft", "prove", "strip"]


def extract(
    donor: str | Path, out: str | Path, kind: str = DONOR, wanted_type: str = KEEP, run: RunOptions | None = None
) -> Outcome:
    """Take the head out of `donor` into the file `out`.

    donor: what `mtpgraft extract` takes: a GGUF, a safetensors folder, `hf:org/repo`, a URL.
    kind: "donor", the head alone, for grafting; "sidecar", what llama.cpp loads with -md.
    wanted_type: of the matrices: "keep", "q8_0", "bf16", ... Norms stay F32.
    Raises InputError and its kinds for what cannot be read, RefusedError for what would do harm, TransientError for
    trouble of disk or network.
    """
    run, out = run or RunOptions(), Path(out)
    wanted_type = _type_name(wanted_type)
    if run.dry_run or isinstance(parse_spec(donor), LocalSpec):
        return surgery.extract(donor, out, kind, wanted_type, run)
    check_target(out, overwrite=run.overwrite)
    return surgery.extract(acquire_donor(donor, kind, run), out, kind, wanted_type, run)


def graft(
    base: str | Path,
    donor: str | Path,
    out: str | Path,
    options: GraftOptions | None = None,
    run: RunOptions | None = None,
) -> Outcome:
    """Put the head of `donor` onto `base`, a local GGUF, and write the result to `out`.

    donor: what `mtpgraft graft` takes: a GGUF, head file, sidecar or safetensors folder, `hf:org/repo`, a URL.
    The result has its name when it is complete and was proven; `Outcome.report` is the proof.
    Raises what `extract` raises, and NotVerifiedError when the proof fails.
    """
    options, run, out = options or GraftOptions(), run or RunOptions(), Path(out)
    options = replace(options, wanted_type=_type_name(options.wanted_type))
    if not isinstance(parse_spec(donor), LocalSpec):
        check_target(out, overwrite=run.overwrite or run.in_place)
        surgery.refuse_remote(base)
        with open_model(base, run.max_header_nbytes) as model:
            refuse_unfit_base(model, find_head(model), options)
    with local_donor(donor, out.parent, run, options.wanted_type) as source:
        return surgery.graft(base, source, out, options, run)


def prove(
    out: str | Path, base: str | Path, donor: str | Path | None = None, progress: Progress | None = None
) -> VerifyReport:
    """Hold the graft `out` against its base and, when given, the donor of its head: whatever `graft` takes.

    progress: called with bytes compared since the last call.
    Raises what opening them raises; a difference is no exception, but a check of the report that is not `ok`.
    """
    with ExitStack() as stack:
        result, base_model = (stack.enter_context(open_model(spec)) for spec in (out, base))
        if donor is None:
            return verify_graft(result, base_model, None, progress)
        work = Path(stack.enter_context(TemporaryDirectory(prefix="mtpgraft-prove-")))
        source = stack.enter_context(local_donor(donor, work, wanted_type=_matrix_type(find_head(result))))
        return verify_graft(result, base_model, stack.enter_context(open_model(source)), progress)


def _matrix_type(head: Head) -> str:
    """What `wanted_type` a checkpoint's head was written with: a conversion by way of another type is not the same."""
    names = [name.lower() for name in head.types if name != "F32"]
    return next((name for name in names if name in writable_types()), KEEP)


def _type_name(wanted_type: str) -> str:
    """In lower case. Raises UsageError for a type that cannot be written."""
    return KEEP if wanted_type.lower() == KEEP else parse_type(wanted_type).name.lower()
