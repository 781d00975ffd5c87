"""Architectures that have no MTP head in llama.cpp, listed so that the reason can be given."""

from __future__ import annotations

from mtpgraft.arch.common import moe_arrays
from mtpgraft.arch.spec import ArchSpec, GraphSupport, LoadPolicy

GRANITESWITCH = ArchSpec(
    name="graniteswitch",
    title="Granite Switch",
    policy=LoadPolicy.IGNORED,
    graph=GraphSupport.NONE,
    sidecar=False,
    refuse_graft="llama.cpp uses the nextn count of this architecture for its adapter router, not for a head",
    is_mtp=False,
    remarks=("the loader sets nextn to 1 and adds the router's block itself; draft-mtp is refused",),
    source="src/models/granite-switch.cpp:55-71; src/llama-context.cpp:3883-3887 @ b11434",
)

MINIMAX_M3 = ArchSpec(
    name="minimax-m3",
    title="MiniMax-M3",
    policy=LoadPolicy.UNHANDLED,
    graph=GraphSupport.NONE,
    arrays=moe_arrays("src/models/minimax-m3.cpp:16 @ b11434"),
    sidecar=False,
    refuse_graft="llama.cpp's loader knows no head for MiniMax-M3: a file with one fails with `wrong number "
    "of tensors`, and the released weights hold none",
    source="src/models/minimax-m3.cpp:9, 52 @ b11434",
)

EAGLE3 = ArchSpec(
    name="eagle3",
    title="EAGLE-3 drafters",
    policy=LoadPolicy.IGNORED,
    graph=GraphSupport.NONE,
    sidecar=False,
    refuse_graft="an EAGLE-3 file is a drafter of its own, not a base: load it with -md",
    is_mtp=False,
    source="src/models/eagle3.cpp:38 @ b11434",
)

DFLASH = ArchSpec(
    name="dflash",
    title="DFlash and DSpark drafters",
    policy=LoadPolicy.IGNORED,
    graph=GraphSupport.NONE,
    sidecar=False,
    refuse_graft="a DFlash or DSpark file is a drafter of its own, not a base: load it with -md",
    is_mtp=False,
    source="src/models/dflash.cpp:108; common/speculative.cpp:2368-2384 @ b11434",
)

SPECS = (GRANITESWITCH, MINIMAX_M3, EAGLE3, DFLASH)
