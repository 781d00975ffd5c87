"""Plans the sidecar of a graft: what `graft` would put into the base, as a file for `-md` beside it.

Its embedding and output matrices are the base's own, as the graft would use them, so several heads can be compared on
one base without writing the base again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mtpgraft.container import GGUFModel, ValueType
from mtpgraft.container.encode import make_key
from mtpgraft.errors import RefusedError
from mtpgraft.head import Head
from mtpgraft.plan.graft import GraftOptions, plan_graft
from mtpgraft.plan.keys import HEAD_SHA256, OWN
from mtpgraft.plan.values import SurgeryPlan


def plan_beside(
    base: GGUFModel, base_head: Head, donor: GGUFModel, donor_head: Head, out: Path, wanted_type: str
) -> SurgeryPlan:
    """The plan of a sidecar with the donor's head (or the base's own: base as its own donor) for this base.

    Raises RefusedError when the pair does not fit, or llama.cpp loads no sidecar of this architecture.
    """
    spec = donor_head.spec
    if spec is not None and not spec.sidecar:
        raise RefusedError(
            f"llama.cpp cannot load a sidecar of {base.architecture}",
            file=base.name, hint="graft each head into a file of its own and bench those",
        )  # fmt: skip
    options = GraftOptions(wanted_type, replace=bool(base_head.blocks))
    grafted = plan_graft(base, base_head, donor, donor_head, out, options)
    (file,) = grafted.files
    required = spec.sidecar_roots if spec else ("token_embd.weight", "output_norm.weight")
    optional = spec.sidecar_optional_roots if spec else ("output.weight",)
    dropped = tuple(f"{base.architecture}.{name}" for name in spec.sidecar_drop_keys) if spec else ()
    missing = [name for name in required if name not in base.tensor_by_name]
    if missing:
        raise RefusedError("lacks what a sidecar needs", file=base.name, where=f"tensor {missing[0]}")
    keys = [
        key
        for key in file.keys
        if not key.name.startswith(OWN)
        and not any(key.name.startswith(name) if name.endswith(".") else key.name == name for name in dropped)
    ]
    keys.append(make_key(HEAD_SHA256, ValueType.STRING, "0" * 64, base.byte_order))
    sidecar = replace(
        file,
        keys=tuple(keys),
        tensors=tuple(t for t in file.tensors if t.head_block is not None or t.name in (*required, *optional)),
        digest_key=HEAD_SHA256,
    )
    return replace(grafted, operation="extract", files=(sidecar,), key_changes=())
