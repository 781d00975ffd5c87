"""Predicted memory against llama.cpp's own log: weights and caches to the last printed digit, for every architecture.

The embedded engine runs on the CPU here, where all of a model is in one place; where layers go on devices is in
test_vram_devices.py. `pytest -n 0 -m slow tests/test_vram_engine.py` holds every setting against every architecture.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mtpgraft.arch import GraphSupport, spec_for
from mtpgraft.bench.buffers import ContextBuffers, EngineBuffers
from mtpgraft.open import open_model
from mtpgraft.vram.caches import Cache, CacheKind, Serving, draft_caches, trunk_caches, unfit_type
from mtpgraft.vram.compute import activations, compute_buffers
from mtpgraft.vram.rows import memory_row
from mtpgraft.vram.shape import ModelShape, model_shape
from mtpgraft.vram.weights import HOST, Placement, in_place, place_weights
from tests.conftest import ROOT, TINY, TRAINED
from tests.enginebuffers import logged

MIB = 2**20
HALF_DIGIT = 0.0051
"""Sizes are printed with two decimals."""
ON_CPU = Placement(splits=())

whole = sorted(path.parent.name for path in TINY.glob("*/whole.gguf"))
known = [name for name in whole if memory_row(name.removesuffix("-tied")) is not None]
DRAFTS = {GraphSupport.SINGLE, GraphSupport.CHAIN}
# these load with draft-mtp, and no graph runs them
drafting = [
    name for name in known if (spec := spec_for(name.removesuffix("-tied"))) is not None and spec.graph in DRAFTS
]


def shape_of(path: Path) -> ModelShape:
    with open_model(path) as model:
        shape = model_shape(model)
    assert shape is not None
    return shape


def weights_of(path: Path, *, with_head: bool) -> float:
    with open_model(path) as model:
        return in_place(place_weights(model, ON_CPU, drafting=with_head), HOST) / MIB


def check_caches(found: ContextBuffers, caches: tuple[Cache, ...]) -> None:
    """Each cache is rounded for itself, so that the sum may be off by half a digit each."""
    states = [cache for cache in caches if cache.kind is CacheKind.STATE]
    others = sum(cache.n_bytes for cache in caches if cache.kind is not CacheKind.STATE) / MIB
    assert found.kv_mib == pytest.approx(others, abs=HALF_DIGIT * max(1, len(found.caches)))
    assert found.states_mib == pytest.approx(sum(cache.n_bytes for cache in states) / MIB, abs=HALF_DIGIT)


def check(path: Path, serving: Serving, sidecar: Path | None = None) -> EngineBuffers:
    """Weights and caches of both contexts, as predicted from the header, equal what was allocated."""
    shape = shape_of(path)
    found = logged(path, serving, sidecar)
    drafting = serving.n_draft > 0
    assert found.models[0][0].mib == pytest.approx(weights_of(path, with_head=drafting), abs=HALF_DIGIT)
    trunk = found.contexts[0]
    assert trunk.n_ctx_seq == serving.n_cells and trunk.n_ctx == serving.n_cells * serving.n_streams
    check_caches(trunk, trunk_caches(shape, serving))
    if drafting:
        head_of = sidecar or path
        if sidecar is not None:
            assert found.models[1][0].mib == pytest.approx(weights_of(sidecar, with_head=True), abs=HALF_DIGIT)
        check_caches(found.contexts[1], draft_caches(shape_of(head_of), serving))
    assert len(found.contexts) == 1 + drafting and len(found.models) == 1 + (sidecar is not None)
    return found


@pytest.mark.parametrize("name", known)
def test_weights_and_caches_without_drafting(name: str) -> None:
    check(TINY / name / "whole.gguf", Serving(16384, n_parallel=2))


@pytest.mark.parametrize("name", drafting)
def test_weights_and_caches_with_drafting(name: str) -> None:
    check(TINY / name / "whole.gguf", Serving(20000, n_draft=2))


def test_all_architectures_but_the_unknown_are_held_against_the_engine() -> None:
    assert set(whole) - set(known) == set() and len(known) >= 20


@pytest.mark.parametrize(
    "serving",
    [
        Serving(8192, 1, cache_type_k="q8_0", cache_type_v="q8_0"),
        Serving(8192, 2, cache_type_k="q5_1", cache_type_v="q4_0"),
        Serving(5000, 3, 4, draft_cache_type_k="q8_0", draft_cache_type_v="q8_0"),
        Serving(8192, 2, 3, unified=True),
    ],
    ids=lambda s: f"n={s.n_draft} np={s.n_parallel} {s.cache_type_k}",
)
def test_cache_types_slots_and_depths_on_the_trained_model(serving: Serving) -> None:
    check(TRAINED / "donor-bf16.gguf", serving)


def test_a_sidecar_is_loaded_whole_beside_its_base() -> None:
    check(TRAINED / "base-Q4_K_M.gguf", Serving(8192, 2), TRAINED / "mtp-q8_0.gguf")


def test_a_cache_type_that_llama_cpp_refuses_is_refused_in_advance() -> None:
    from mtpgraft.errors import EngineError

    path = TINY / "qwen35" / "whole.gguf"
    assert unfit_type(shape_of(path), "q8_0", "q8_0") is not None
    with pytest.raises(EngineError, match="does not divide n_embd_head_k=16"):
        logged(path, Serving(512, cache_type_k="q8_0", cache_type_v="q8_0"))
    mla = shape_of(TINY / "deepseek2" / "whole.gguf")
    assert unfit_type(mla, "f16", "bf16") is not None
    with pytest.raises(EngineError, match=r"different K .* and V"):
        logged(TINY / "deepseek2" / "whole.gguf", Serving(512, cache_type_v="bf16"))


# The worst seen is in docs/plan.md. A model with an indexer is a rough guess, and says so.
BELOW, ABOVE, INDEXED_BELOW = 0.13, 0.35, 0.35


def check_compute(path: Path, serving: Serving, found: EngineBuffers, device: str = "") -> None:
    """The estimate of each context's compute buffer is within the stated error."""
    with open_model(path) as model:
        shape = model_shape(model)
        assert shape is not None
        for number, context in enumerate(found.contexts):
            of = activations(model, shape, draft=number == 1)
            estimate = compute_buffers(of, shape, serving, draft=number == 1).device / MIB
            seen = context.mib("compute", device)
            indexed = any(layer.indexer_width for layer in shape.layers)
            assert estimate >= seen * (1 - (INDEXED_BELOW if indexed else BELOW)), (number, estimate, seen)
            # a chain of heads reserves for its first block; a later one may see all of the context
            windows = {layer.windowed for layer in shape.layers if layer.is_head}
            if number == 0 or len(windows) == 1:
                assert estimate <= seen * (1 + ABOVE), (number, estimate, seen)


@pytest.mark.parametrize("name", ["trained", "qwen35moe", "step35", "deepseek32", "nemotron_h_moe"])
def test_compute_buffers_are_within_the_stated_error(name: str) -> None:
    path = TRAINED / "donor-bf16.gguf" if name == "trained" else TINY / name / "whole.gguf"
    serving = Serving(16384, 1)
    check_compute(path, serving, logged(path, serving))


def make_shape(tmp_path: Path, *arguments: str) -> Path:
    out = tmp_path / "shape.gguf"
    script = [sys.executable, str(ROOT / "scripts" / "make_shape_model.py"), str(out), "--jobs", "1", *arguments]
    subprocess.run(script, check=True, capture_output=True, text=True, timeout=300)
    return out


def test_a_shape_model_runs_drafts_and_takes_what_is_planned(tmp_path: Path) -> None:
    from tests.engine import load_and_draft, load_only

    model = make_shape(tmp_path, "--shape", "tiny")
    assert len(load_and_draft(model, n_max=2, grammar=None).text) > 0
    texts = {load_only(model, grammar=None, prompt=prompt).text for prompt in ("abc", "xyz")}
    assert len(texts) == 2  # what it says depends on what it reads: no logits are NaN or all alike
    check_compute(model, Serving(4096, 2), check(model, Serving(4096, 2)))


def test_shape_models_have_the_real_dimensions_and_cost_no_disk(tmp_path: Path) -> None:
    dense = make_shape(tmp_path, "--shape", "27b", "--sparse")
    shape = shape_of(dense)
    assert dense.stat().st_size > 15e9 and dense.stat().st_blocks * 512 < 32e6
    # llama.cpp's tests/snapshots/qwen3.6-27b.schema @ b11434
    assert (shape.n_embd, shape.n_vocab, shape.n_trunk, shape.n_head_blocks) == (5120, 248320, 64, 1)
    assert sum(layer.cached and not layer.is_head for layer in shape.layers) == 16
    # b11434, llama-server's fit pass over this very file: 8192.00 MiB of KV, 448.88 MiB of states, 512.00 MiB of draft
    trunk = trunk_caches(shape, Serving(131072, 2))
    states = sum(cache.n_bytes for cache in trunk if cache.kind is CacheKind.STATE)
    assert sum(cache.n_bytes for cache in trunk) - states == 8192 * MIB
    assert round(states / MIB, 2) == 448.88
    assert sum(cache.n_bytes for cache in draft_caches(shape, Serving(131072, 2))) == 512 * MIB


# --- slow: every architecture, setting by setting -----------------------------------------------------------------

MATRIX = [
    Serving(n_ctx, n_draft, n_parallel, *types, unified=unified)
    for n_ctx in (256, 16000, 65536)
    for n_draft in (0, 1, 3)
    for n_parallel, unified in ((1, False), (4, False), (3, True))
    for types in (("f16", "f16"), ("bf16", "bf16"), ("q8_0", "q8_0"), ("q4_0", "q4_0"))
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trained", *known])
def test_every_setting(name: str) -> None:
    path = TRAINED / "donor-bf16.gguf" if name == "trained" else TINY / name / "whole.gguf"
    shape = shape_of(path)
    done = 0
    for serving in MATRIX:
        if serving.n_draft and name not in (*drafting, "trained"):
            continue
        if unfit_type(shape, serving.cache_type_k, serving.cache_type_v) is not None:
            continue
        check(path, serving)
        done += 1
    assert done >= 18


@pytest.mark.slow
@pytest.mark.parametrize("name", known)
def test_bases_without_a_head(name: str) -> None:
    check(TINY / name / "no-mtp.gguf", Serving(16384))
