"""Every rule of the audit, as data. docs/audit.md explains them to users; a test keeps the two together.

Consequences are what llama.cpp was seen to do: at b11549 (embedded) and b10434 (llama-server) where a test of
tests/test_audit_engine.py runs the broken file, else as read in the source of b11434.
"""

from __future__ import annotations

from mtpgraft.audit.values import Rule, Severity, Verdict

_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_GRAFT = "mtpgraft repair {file} -o {out}"
_AGAIN = "download {file} again, and compare its sha256 with the publisher's"

# The file itself
TRUNCATED = Rule(
    "MTP001", "the file ends before its data does", _E, Verdict.TRUNCATED,
    "llama.cpp refuses it (all builds): `data is not within the file bounds, model is corrupted or incomplete`", _AGAIN,
)  # fmt: skip
CORRUPT = Rule("MTP002", "the bytes break the format", _E, Verdict.CORRUPT, "llama.cpp refuses it (all builds)", _AGAIN)
SPLIT_INCOMPLETE = Rule(
    "MTP003", "shards of a split set are missing", _E, Verdict.TRUNCATED,
    "llama.cpp refuses it (all builds): it opens every shard by its name", "download the missing shards beside {file}",
)  # fmt: skip
GAPS = Rule(
    "MTP004", "the tensor data has gaps or another order than the table", _E, Verdict.CORRUPT,
    "llama.cpp refuses it (all builds): `tensor ... has offset X, expected Y`", _GRAFT,
)  # fmt: skip
FOREIGN_TYPES = Rule(
    "MTP005", "tensor types that llama.cpp does not have", _N, None,
    "llama.cpp refuses it (all builds): `has invalid ggml type`; ik_llama.cpp, which made these types, runs it",
    "run it with ik_llama.cpp",
)  # fmt: skip
NO_MODEL = Rule(
    "MTP006", "not a language model", _N, Verdict.NOT_MTP,
    "none: adapters, projectors and importance matrices have no head", "nothing to mend",
)  # fmt: skip
UNREADABLE = Rule(
    "MTP007", "could not be read", _E, Verdict.UNKNOWN, "nothing is known of the file", "check the name and its rights"
)
NO_HEAD_ARCH = Rule(
    "MTP008", "the architecture has no MTP head", _N, Verdict.NOT_MTP,
    "none: llama.cpp has no draft-mtp for it", "nothing to mend",
)  # fmt: skip
UNKNOWN_ARCH = Rule(
    "MTP009", "a head of an architecture that mtpgraft has no row for", _W, Verdict.UNKNOWN,
    "not known: which tensors its head needs cannot be checked", "see whether it drafts: mtpgraft bench {file}",
)  # fmt: skip

# No head
DROPPED = Rule(
    "MTP010", "the head was dropped", _E, Verdict.DROPPED,
    "it loads and never drafts; with --spec-type draft-mtp llama.cpp (b10434 to b11549 and later) ends with "
    "`context type MTP requested but model doesn't contain MTP layers`", _GRAFT,
)  # fmt: skip
DECLARED_MISSING = Rule(
    "MTP011", "a head is declared and its tensors are missing", _E, Verdict.DECLARED_MISSING, "", _GRAFT
)
NOT_RAISED = Rule(
    "MTP012", "a head is declared, but block_count was not raised for it", _E, Verdict.DECLARED_MISSING,
    "the worst case: newer builds (seen at b11549) take the last trunk layer for the head and skip it, so the output "
    "changes or the load aborts; older ones (b10434) refuse: `nextn.eh_proj.weight' not found`", _GRAFT,
)  # fmt: skip
UPSTREAM_HEADLESS = Rule(
    "MTP013", "the upstream model has no head to keep", _E, Verdict.UPSTREAM_HEADLESS,
    "it loads and never drafts; the conversion lost nothing",
    "take the head of the model that the upstream was finetuned from: "
    "mtpgraft repair {file} -o {out} --donor ORIGINAL_MODEL",
)  # fmt: skip
MAY_HAVE = Rule(
    "MTP014", "no head, and whether the model ever had one is not known", _N, Verdict.UNKNOWN,
    "it loads and never drafts", "name its original: mtpgraft repair {file} -o {out} --donor hf:org/repo",
)  # fmt: skip
SEPARATE = Rule(
    "MTP015", "the drafter is a file of its own, by design", _N, Verdict.UNKNOWN,
    "nothing is drafted without that file: -md DRAFTER --spec-type draft-mtp", "download the drafter beside {file}",
)  # fmt: skip
SEPARATE_FOUND = Rule(
    "MTP016", "its drafter is beside it", _N, Verdict.OK,
    "drafts with -md DRAFTER --spec-type draft-mtp", "nothing to mend",
)  # fmt: skip
SIDECAR_FITS = Rule(
    "MTP017", "a sidecar beside it fits", _N, None,
    "drafts without a head of its own: -md SIDECAR --spec-type draft-mtp; with -hf, llama.cpp finds a file with "
    "`mtp-` in its name by itself (common/download.cpp:602-606 @ b11434)",
    "nothing to mend",
)  # fmt: skip

# A head that is not right
ORPHAN = Rule(
    "MTP020", "head tensors without a declaration", _E, Verdict.ORPHAN,
    "llama.cpp refuses it (b10434 to b11549 and later): `wrong number of tensors`, or a trunk tensor `not found` in "
    "the head's block", _GRAFT,
)  # fmt: skip
MOVED = Rule(
    "MTP021", "the head is not where the keys say", _E, Verdict.PARTIAL,
    "llama.cpp refuses it (all builds): `wrong number of tensors`, or a tensor `not found`", _GRAFT,
)  # fmt: skip
MISSING_TENSOR = Rule("MTP022", "a head tensor is missing", _E, Verdict.PARTIAL, "", _GRAFT)
WRONG_SHAPE = Rule(
    "MTP023", "a head tensor has the wrong shape", _E, Verdict.PARTIAL,
    "llama.cpp refuses it (all builds), also without draft-mtp: `has wrong shape; expected ..., got ...`", _GRAFT,
)  # fmt: skip
SHORT_ARRAY = Rule(
    "MTP024", "a per-layer array does not have one item per block", _E, Verdict.PARTIAL,
    "llama.cpp refuses it (all builds): `has wrong array length`", _GRAFT,
)  # fmt: skip
SILENT_ARRAY = Rule(
    "MTP025", "a per-layer array, whose length llama.cpp does not check, is short", _E, Verdict.PARTIAL,
    "loads without a word (all builds), and the head's layer runs with the wrong attention window", _GRAFT,
)  # fmt: skip
TRUNK_ARRAY = Rule(
    "MTP026", "a per-layer array of the trunk alone was extended", _E, Verdict.PARTIAL,
    "llama.cpp refuses it: `has wrong array length` (read at b11434)",
    "what the array held is not known: take the original file",
)  # fmt: skip
TOO_MANY = Rule(
    "MTP027", "more head blocks than llama.cpp's graph runs", _E, Verdict.UNSUPPORTED,
    "loads; with draft-mtp it aborts in `GGML_ASSERT(hparams.n_layer_nextn == 1 ...)` (seen at b11549)", _GRAFT,
)  # fmt: skip
TOO_FEW = Rule(
    "MTP028", "fewer head blocks than declared", _E, Verdict.PARTIAL,
    "llama.cpp refuses it, or aborts with draft-mtp: a declared head block has no tensors", _GRAFT,
)  # fmt: skip
FOREIGN_TENSOR = Rule(
    "MTP029", "a head tensor that llama.cpp does not know", _E, Verdict.PARTIAL,
    "llama.cpp refuses it (b10434 to b11549 and later): `wrong number of tensors`", _GRAFT,
)  # fmt: skip
OTHER_NAMES = Rule(
    "MTP030", "a head under another program's tensor names", _E, Verdict.UNSUPPORTED,
    "llama.cpp refuses it (b10434 to b11549 and later): `wrong number of tensors`",
    "take a conversion by llama.cpp's convert_hf_to_gguf.py",
)  # fmt: skip
BOTH_FORMS = Rule(
    "MTP031", "a head tensor in two forms, split and fused", _E, Verdict.PARTIAL,
    "llama.cpp refuses it (read at b11434): `wrong number of tensors`", _GRAFT,
)  # fmt: skip
COMPANIONS = Rule(
    "MTP032", "the head has NVFP4 scales", _W, None,
    "without draft-mtp llama.cpp refuses the file (b10434 to b11549): `wrong number of tensors`; with it, it loads",
    "always start it with --spec-type draft-mtp, or put another head in its place: "
    "mtpgraft graft {file} DONOR -o {out} --replace",
)  # fmt: skip
BIG_ENDIAN = Rule(
    "MTP033", "big-endian", _N, None,
    "llama.cpp refuses it on little-endian machines (all builds): `is there a mismatch between the host and model "
    "endianness?`; big-endian ones load it",
    "for other machines: python -m gguf.scripts.gguf_convert_endian {file} little",
)  # fmt: skip
NO_GRAPH = Rule(
    "MTP040", "no llama.cpp graph runs this head", _E, Verdict.UNSUPPORTED,
    "loads; draft-mtp ends with `failed to create MTP context` (seen at b11549)",
    "no command makes llama.cpp run it; without it the file is smaller: mtpgraft strip {file} -o {stripped}",
)  # fmt: skip
NOT_LOADED = Rule(
    "MTP041", "llama.cpp's loader does not know this head", _E, Verdict.UNSUPPORTED,
    "llama.cpp refuses the file (read at b11434): `wrong number of tensors`", "mtpgraft strip {file} -o {stripped}",
)  # fmt: skip
NEEDS_BUILD = Rule("MTP042", "older builds of llama.cpp behave differently", _N, None, "", "run a current llama.cpp")

# Data, read with --deep
NOT_FINITE = Rule(
    "MTP050", "NaN or infinity in the head", _E, Verdict.DEAD,
    "loads (all builds); every draft is rejected, so drafting only costs time", _GRAFT,
)  # fmt: skip
ALL_ZERO = Rule(
    "MTP051", "a head tensor is all zero", _E, Verdict.DEAD,
    "loads (all builds) and drafts what is never accepted (seen at b11549)", _GRAFT,
)  # fmt: skip
CONSTANT = Rule(
    "MTP052", "a head tensor holds one value only", _E, Verdict.DEAD,
    "loads (all builds); the drafts are noise", _GRAFT,
)  # fmt: skip
BAD_SCALES = Rule(
    "MTP053", "Q8_0 scales out of range", _E, Verdict.DEAD, "loads (all builds); the drafts are noise", _GRAFT
)
NORMS_RAW = Rule(
    "MTP054", "the head's norms lack the +1 of their architecture", _E, Verdict.NORM_SUSPECT,
    "loads (all builds) and drafts what is never accepted: 0 of 183 in a trained model (b11549)", _GRAFT,
)  # fmt: skip
NORMS_TWICE = Rule(
    "MTP055", "the head's norms have the +1 twice", _E, Verdict.NORM_SUSPECT,
    "loads (all builds); most drafts are rejected", _GRAFT,
)  # fmt: skip
OTHER_MODEL = Rule(
    "MTP056", "the head is not of this model", _E, Verdict.MISMATCHED,
    "loads (all builds); most drafts are rejected", _GRAFT,
)  # fmt: skip
NOT_CHECKED = Rule(
    "MTP057", "data that could not be checked", _N, None, "none known", "see whether it drafts: mtpgraft bench {file}"
)
OTHER_DATA = Rule(
    "MTP058", "the head's data is not what mtpgraft wrote", _E, Verdict.CORRUPT,
    "loads (all builds); the drafts are those of damaged weights", _AGAIN,
)  # fmt: skip
LOW_QUANT = Rule(
    "MTP060", "head tensors below Q8_0", _W, Verdict.LOW_QUANT,
    "drafts (all builds); fewer of them may be accepted than with a Q8_0 head, which takes 0.45 GB for a 27B model",
    "take a Q8_0 head from a better donor: mtpgraft graft {file} DONOR -o {out} --replace",
)  # fmt: skip

# Sidecars
SIDECAR = Rule(
    "MTP070", "a sidecar: a head to load beside its model", _N, Verdict.SIDECAR,
    "as the model itself (-m) it crashes llama.cpp (SIGSEGV at b11549); it is loaded with -md {file}", "nothing to mend"
)  # fmt: skip
HEAD_FILE = Rule(
    "MTP071", "a head file: a donor for mtpgraft graft", _N, Verdict.SIDECAR,
    "llama.cpp cannot load it (all builds): it lacks the embedding and the output norm",
    "mtpgraft graft BASE {file} -o {out}",
)  # fmt: skip
SIDECAR_UNFIT = Rule(
    "MTP072", "a sidecar that fits no model beside it", _E, Verdict.MISMATCHED,
    "-md with that model aborts when the width differs (`MTP input row width must match`, b11434); another vocabulary "
    "is not noticed, and every draft is rejected", "take the sidecar of the model itself",
)  # fmt: skip
SIDECAR_ALONE = Rule(
    "MTP073", "a sidecar without its model beside it", _N, None, "cannot run by itself", "put its model into the folder"
)
NAME_TRAP = Rule(
    "MTP074", "a model whose file name contains `mtp-`", _W, None,
    "llama.cpp's -hf takes any file with `mtp-` in its name for a sidecar: this one is no longer selectable as the "
    "model, and may be picked as the draft of a sibling (common/download.cpp:531-605 @ b11434)",
    "rename it: a suffix such as -MTP.gguf is safe",
)  # fmt: skip
OVERRIDE = Rule(
    "MTP075", "a sidecar would override the embedded head", _W, None,
    "with -hf and draft-mtp llama.cpp takes the sidecar and not the head in the model (b11434)",
    "keep one of the two",
)  # fmt: skip
SIDECAR_ROOTS = Rule(
    "MTP076", "a sidecar lacks tensors that llama.cpp reads", _E, Verdict.PARTIAL,
    "llama.cpp refuses it: a tensor is `not found`", "mtpgraft extract MODEL -o {out} --as sidecar",
)  # fmt: skip

# Safetensors checkpoints
CKPT_MISSING = Rule(
    "MTP080", "config.json declares a head and the tensors are missing", _E, Verdict.DECLARED_MISSING,
    "convert_hf_to_gguf.py makes a file that declares a head it lacks: newer builds of llama.cpp load it and abort "
    "with draft-mtp, older ones refuse it",
    "copy the head's tensors from the original checkpoint; saving with transformers drops `mtp.*`",
)  # fmt: skip
CKPT_UNDECLARED = Rule(
    "MTP081", "head tensors that config.json does not declare", _E, Verdict.ORPHAN,
    "convert_hf_to_gguf.py drops the head", "set {key} in config.json, then convert again",
)  # fmt: skip
CKPT_PARTIAL = Rule(
    "MTP082", "part of the head is missing", _E, Verdict.PARTIAL,
    "convert_hf_to_gguf.py fails, or makes a file that llama.cpp refuses", "download or export the checkpoint again",
)  # fmt: skip
CKPT_SHARDS = Rule(
    "MTP083", "shards that the index names are missing", _E, Verdict.TRUNCATED,
    "nothing can load it", "download the missing shards",
)  # fmt: skip
CKPT_QUANTIZED = Rule(
    "MTP084", "a quantized checkpoint", _N, None,
    "engines for this format run it; llama.cpp's converter reads some of these formats", "nothing to mend",
)  # fmt: skip
CKPT_DROPPED = Rule(
    "MTP085", "the checkpoint has no head, and its architecture has one", _E, Verdict.DROPPED,
    "what is converted from it never drafts",
    "take the head of the original model: mtpgraft graft BASE hf:org/original -o OUT",
)  # fmt: skip

RULES: tuple[Rule, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Rule))
"""All of them, in the order of their ids."""
