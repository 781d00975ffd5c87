"""One plan: the setting that is asked for, what it takes, what would fit besides, and how deep to draft."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mtpgraft.container import GGUFModel
from mtpgraft.head import Head, find_head, n_runnable_blocks
from mtpgraft.vram.advice import Advice
from mtpgraft.vram.budget import Budget, PlannedModel
from mtpgraft.vram.caches import Serving, unfit_type
from mtpgraft.vram.devices import DEFAULT_RESERVE_NBYTES, Device
from mtpgraft.vram.rows import known_architectures
from mtpgraft.vram.search import MIN_CTX, ContextCell, Finder, Offload
from mtpgraft.vram.shape import model_shape

DEPTHS = (0, 1, 2, 3)
GRID_TYPES = ("f16", "q8_0", "q4_0")


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a user asks for.

    n_ctx: None asks for the largest that fits. n_draft: None takes the workload's.
    """

    devices: tuple[Device, ...]
    advice: Advice
    n_ctx: int | None = None
    cache_type: str = "f16"
    n_draft: int | None = None
    n_parallel: int = 1
    n_ubatch: int = 512
    reserve_nbytes: int = DEFAULT_RESERVE_NBYTES


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A plan. All that is unknown stays unknown: `why_unknown` then says why, and there is no budget.

    budget: of the setting chosen; None where nothing fits, or nothing is known.
    short: where not all of it fits on the devices, what the setting would take there.
    contexts: the largest context by depth and cache type, with the same layers on the devices.
    whole_contexts: where something stays in RAM, the same with nothing in RAM; else empty.
    can_draft: a head is there, whole, and a graph runs it. why_no_draft: else why not.
    quant_bits: where not all of it fits, bits per weight that would; None where that is no way out.
    """

    request: PlanRequest
    head: Head
    can_draft: bool
    why_no_draft: str | None
    n_draft: int
    n_layers: int
    n_ctx_train: int
    budget: Budget | None
    short: Budget | None
    contexts: tuple[ContextCell, ...]
    whole_contexts: tuple[ContextCell, ...]
    notes: tuple[str, ...]
    bits_per_weight: float
    quant_bits: float | None = None
    why_unknown: str | None = None

    @property
    def fits(self) -> bool:
        return self.budget is not None


def make_plan(model: GGUFModel, request: PlanRequest, sidecar: GGUFModel | None = None) -> MemoryPlan:
    """Plan a start of this model. Reads headers only.

    Raises InvalidFileError for headers that make no sense, UsageError for an unknown cache type.
    """
    head = find_head(sidecar if sidecar is not None else model)
    why_no_draft = _why_no_draft(head)
    n_draft = request.advice.n_draft if request.n_draft is None else request.n_draft
    n_draft = n_draft if why_no_draft is None else 0
    n_elements = sum(tensor.n_elements for tensor in model.tensors)
    bits = 8 * sum(tensor.n_bytes for tensor in model.tensors) / max(1, n_elements)
    shape = model_shape(model)
    sidecar_shape = model_shape(sidecar) if sidecar is not None else None
    unknown = _why_unknown(model, shape is None or (sidecar is not None and sidecar_shape is None))
    if shape is None or unknown is not None:
        return MemoryPlan(
            request,
            head,
            why_no_draft is None,
            why_no_draft,
            n_draft,
            0,
            0,
            None,
            None,
            (),
            (),
            (),
            bits,
            None,
            unknown,
        )
    planned = PlannedModel(model, shape, sidecar, sidecar_shape)
    serving = Serving(
        request.n_ctx or MIN_CTX * request.n_parallel,
        n_draft,
        request.n_parallel,
        request.cache_type,
        request.cache_type,
        n_ubatch=request.n_ubatch,
    )
    finder = Finder(planned, request.devices, request.reserve_nbytes)
    why_type = unfit_type(shape, request.cache_type, request.cache_type)
    offload = finder.offload_for(serving) if why_type is None else None
    chosen = None
    if offload is not None:
        chosen = finder.largest(offload, serving) if request.n_ctx is None else finder.budget(offload, serving)
    everything = Offload()
    short = finder.budget(everything, serving) if offload != everything and why_type is None else None
    depths = DEPTHS if why_no_draft is None else (0,)
    cells = finder.contexts(offload or everything, serving, depths, GRID_TYPES)
    whole_cells = finder.contexts(everything, serving, depths, GRID_TYPES) if short is not None and chosen else ()
    return MemoryPlan(
        request,
        head,
        why_no_draft is None,
        why_no_draft,
        n_draft,
        len(shape.layers),
        shape.n_ctx_train,
        chosen,
        short,
        cells,
        whole_cells,
        _notes(finder, chosen, serving, why_type),
        bits,
        None if short is None else _quant_bits(short, n_elements),
    )


def _why_no_draft(head: Head) -> str | None:
    if not head.is_whole:
        return f"no head that could draft ({head.state.value})"
    if n_runnable_blocks(head) == 0:
        return f"no llama.cpp graph runs the head of {head.architecture}"
    return None


def _why_unknown(model: GGUFModel, no_row: bool) -> str | None:
    if no_row:
        return (
            f"mtpgraft does not know what llama.cpp caches for {model.architecture}, and guesses nothing; it knows "
            + ", ".join(known_architectures())
        )
    unsized = sorted({tensor.type.name for tensor in model.tensors if not tensor.type.block_nbytes})
    if unsized:
        return f"the size of a tensor type is not known: {', '.join(unsized)}"
    return None


def _quant_bits(short: Budget, n_elements: int) -> float | None:
    """Bits per weight at which the weights would leave room for all else."""
    weights = sum(use.weights + use.head for use in short.uses)
    room = sum(device.n_bytes for device in short.devices) - (short.n_bytes - weights)
    in_all = weights + short.host.weights
    return 8 * room / max(1, n_elements * weights / max(1, in_all)) if room > 0 else None


def _notes(finder: Finder, chosen: Budget | None, serving: Serving, why_type: str | None) -> tuple[str, ...]:
    shape = finder.planned.shape
    notes: list[str] = []
    if why_type is not None:
        notes.append(f"llama.cpp refuses this cache type here: {why_type}")
    if chosen is None:
        return tuple(notes)
    placement = chosen.placement
    if placement.n_cpu_moe or placement.n_gpu_layers is not None:
        without = replace(serving, n_draft=0)
        whole_off = finder.budget(Offload(), without).fits
        notes.append(
            "a part of the weights stays in RAM, which is slow"
            + ("; without MTP all of it would fit" if serving.n_draft and whole_off else "")
        )
    if any(layer.indexer_width for layer in shape.layers):
        notes.append("the compute buffers of models with an indexer are a rough guess: seen in tiny models only")
    if len(chosen.devices) > 1:
        notes.append("-ts counts the layers of each device, so that all are about equally full")
    if chosen.serving.n_ctx > shape.n_ctx_train * serving.n_streams:
        notes.append(f"the model was trained for {shape.n_ctx_train} tokens: beyond that its answers get worse")
    if serving.cache_type_k != "f16" and serving.n_draft:
        notes.append("the draft's cache stays f16, llama.cpp's default: it is small")
    return tuple(notes)
