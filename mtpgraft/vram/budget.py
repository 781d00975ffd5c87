"""The budget of one start: weights + head + caches + compute buffers + reserve, per device and in RAM."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mtpgraft.container import GGUFModel
from mtpgraft.vram.caches import Cache, Serving, draft_caches, trunk_caches
from mtpgraft.vram.compute import Activations, ComputeBuffers, activations, compute_buffers
from mtpgraft.vram.devices import DEFAULT_RESERVE_NBYTES, Device
from mtpgraft.vram.shape import ModelShape
from mtpgraft.vram.weights import HOST, PlacedWeight, Placement, in_place, place_weights


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model and, where the head is a file of its own, that file: llama.cpp loads both whole."""

    model: GGUFModel
    shape: ModelShape
    sidecar: GGUFModel | None = None
    sidecar_shape: ModelShape | None = None

    @property
    def draft_shape(self) -> ModelShape:
        return self.sidecar_shape or self.shape


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes in one place. weights: the trunk and what belongs to no layer; head: MTP blocks, and all of a sidecar."""

    weights: int = 0
    head: int = 0
    kv: int = 0
    kv_draft: int = 0
    compute: int = 0
    reserve: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.head + self.kv + self.kv_draft + self.compute + self.reserve


@dataclass(frozen=True, slots=True)
class Budget:
    """What a start takes. uses: one per device, in llama.cpp's order. host: in RAM, without a reserve."""

    serving: Serving
    placement: Placement
    devices: tuple[Device, ...]
    uses: tuple[MemoryUse, ...]
    host: MemoryUse

    @property
    def fits(self) -> bool:
        return all(use.total <= device.n_bytes for device, use in zip(self.devices, self.uses, strict=True))

    @property
    def n_bytes(self) -> int:
        """Of all devices together."""
        return sum(use.total for use in self.uses)


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A model laid out on devices: everything that does not depend on the context.

    fixed: weights and heads per place, RAM first, then the devices.
    places, draft_places: where each layer of the model, and of what holds the head, lies.
    """

    planned: PlannedModel
    devices: tuple[Device, ...]
    placement: Placement
    drafting: bool
    weights: tuple[PlacedWeight, ...]
    fixed: tuple[MemoryUse, ...]
    places: tuple[int, ...]
    draft_places: tuple[int, ...]
    activations: tuple[Activations, ...]
    draft_activations: tuple[Activations, ...]
    reserve_nbytes: int = DEFAULT_RESERVE_NBYTES


def lay_out(
    planned: PlannedModel,
    devices: tuple[Device, ...],
    placement: Placement,
    *,
    drafting: bool,
    reserve_nbytes: int = DEFAULT_RESERVE_NBYTES,
) -> LaidOut:
    """Place the weights. A model drafts from its sidecar where it has one; its own head is then loaded as well."""
    shape, draft_shape = planned.shape, planned.draft_shape
    weights = place_weights(planned.model, placement, drafting=drafting)
    draft_placement = placement
    sidecar: tuple[PlacedWeight, ...] = ()
    if planned.sidecar is not None and drafting:
        draft_placement = Placement(placement.splits)
        sidecar = place_weights(planned.sidecar, draft_placement, drafting=True)
    fixed = tuple(
        MemoryUse(
            in_place(weights, place, heads=False),
            in_place(weights, place, heads=True) + in_place(sidecar, place),
            reserve=0 if place == HOST else reserve_nbytes,
        )
        for place in range(HOST, len(devices))
    )
    n_all, n_draft = len(shape.layers), len(draft_shape.layers)
    return LaidOut(
        planned,
        devices,
        placement,
        drafting,
        (*weights, *sidecar),
        fixed,
        tuple(placement.device_of(i, n_all) for i in range(n_all)),
        tuple(draft_placement.device_of(i, n_draft) for i in range(n_draft)),
        activations(planned.model, shape, draft=False),
        activations(planned.sidecar or planned.model, draft_shape, draft=True),
        reserve_nbytes,
    )


def budget(laid_out: LaidOut, serving: Serving) -> Budget:
    """The budget of this start. Cache types must suit the model: `caches.unfit_type`."""
    shape, draft_shape = laid_out.planned.shape, laid_out.planned.draft_shape
    n_places = len(laid_out.fixed)
    trunk = _by_place(trunk_caches(shape, serving), laid_out.places, n_places)
    draft = [0] * n_places
    draft_compute = ComputeBuffers(0, 0)
    if laid_out.drafting:
        draft = _by_place(draft_caches(draft_shape, serving), laid_out.draft_places, n_places)
        draft_compute = compute_buffers(laid_out.draft_activations, draft_shape, serving, draft=True)
    compute = compute_buffers(laid_out.activations, shape, serving, draft=False)
    on_device = compute.device + _streamed(laid_out) + _copies(laid_out, compute.host)
    uses = [replace(laid_out.fixed[0], kv=trunk[0], kv_draft=draft[0], compute=compute.host + draft_compute.host)]
    for number in range(1, n_places):
        # the draft context computes where its block lies
        here = draft[number] > 0 or n_places == 2
        n_compute = on_device + (draft_compute.device if here else 0)
        uses.append(replace(laid_out.fixed[number], kv=trunk[number], kv_draft=draft[number], compute=n_compute))
    return Budget(serving, laid_out.placement, laid_out.devices, tuple(uses[1:]), uses[0])


def layer_nbytes(laid_out: LaidOut, serving: Serving) -> list[int]:
    """What each layer on a device costs there, weights and caches, in order; the output is the last."""
    planned = laid_out.planned
    n_all = len(planned.shape.layers)
    costs = [0] * (n_all + 1)
    for weight in laid_out.weights:
        if weight.place != HOST:
            costs[n_all if weight.layer is None else min(weight.layer, n_all)] += weight.n_bytes
    drafts = draft_caches(planned.draft_shape, serving) if laid_out.drafting else ()
    for cache in (*trunk_caches(planned.shape, serving), *drafts):
        if laid_out.places[min(cache.layer, n_all - 1)] != HOST:
            costs[cache.layer] += cache.n_bytes
    n_gpu = laid_out.placement.n_gpu_layers
    return costs if n_gpu is None else costs[max(n_all + 1 - n_gpu, 0) :]


def _by_place(caches: tuple[Cache, ...], places: tuple[int, ...], n_places: int) -> list[int]:
    """Bytes of these caches per place, RAM first."""
    sums = [0] * n_places
    for cache in caches:
        sums[places[cache.layer] - HOST] += cache.n_bytes
    return sums


def _streamed(laid_out: LaidOut) -> int:
    """Weights of the host are copied to the device, a layer at a time, to compute prompts there (op_offload,
    ggml_backend_sched @ b11434): the largest such layer. Read from the source, not measured."""
    by_layer: dict[int, int] = {}
    for weight in laid_out.weights:
        if weight.place == HOST and weight.layer is not None:
            by_layer[weight.layer] = by_layer.get(weight.layer, 0) + weight.n_bytes
    return max(by_layer.values(), default=0)


def _copies(laid_out: LaidOut, inputs_nbytes: int) -> int:
    """Several local GPUs work as a pipeline, and hold the inputs of four micro-batches instead of one
    (GGML_SCHED_MAX_COPIES; src/llama-context.cpp:430-456 @ b11434). Read from the source, not measured."""
    whole = laid_out.placement.n_gpu_layers is None and not laid_out.placement.n_cpu_moe
    local = all(not device.rpc for device in laid_out.devices)
    return 3 * inputs_nbytes if len(laid_out.devices) > 1 and whole and local else 0
