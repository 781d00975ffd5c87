"""What llama.cpp's own log says it allocated, from one start of the embedded engine. About 0.2 s per call."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from mtpgraft.bench.buffers import EngineBuffers, read_buffers
from mtpgraft.bench.engine import DraftSpec, LaunchSpec
from mtpgraft.bench.engines.embedded import EmbeddedEngine
from mtpgraft.vram.caches import Serving


def logged(model: Path, serving: Serving, sidecar: Path | None = None) -> EngineBuffers:
    """Start the model so, without loading tricks that hide sizes (mmap, repacking), and read the log."""
    draft = DraftSpec(serving.n_draft, sidecar=sidecar) if serving.n_draft else None
    extra = (
        ("verbosity", 4),
        ("no_extra_bufts", True),
        ("load_mode", "LLAMA_LOAD_MODE_NONE"),
        ("cache_type_k", f"GGML_TYPE_{serving.cache_type_k.upper()}"),
        ("cache_type_v", f"GGML_TYPE_{serving.cache_type_v.upper()}"),
        ("speculative.draft.cache_type_k", f"GGML_TYPE_{serving.draft_cache_type_k.upper()}"),
        ("speculative.draft.cache_type_v", f"GGML_TYPE_{serving.draft_cache_type_v.upper()}"),
        ("n_ubatch", serving.n_ubatch),
        ("kv_unified", serving.unified),
        ("swa_full", serving.swa_full),
    )
    spec = LaunchSpec(model, serving.n_ctx, draft, 1, serving.n_parallel, warmup=False, extra=extra)
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedEngine(Path(folder), start_timeout_s=60).start(spec),
    ):
        (log,) = Path(folder).iterdir()
        # llama.cpp logs in a thread of its own, which may be behind
        for _ in range(1000):
            text = log.read_text(encoding="utf-8", errors="replace")
            if "model loaded" in text:
                return read_buffers(text)
            time.sleep(0.01)
    raise AssertionError(f"the log of {model.name} never says that it is loaded:\n{text}")
