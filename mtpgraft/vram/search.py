"""What fits: the largest context, and how much must stay in RAM when not all of a model fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mtpgraft.vram.budget import Budget, LaidOut, PlannedModel, budget, lay_out, layer_nbytes
from mtpgraft.vram.caches import Serving, unfit_type
from mtpgraft.vram.devices import Device
from mtpgraft.vram.weights import Placement, is_expert

MIN_CTX = 4096
"""The least context worth planning for: llama.cpp's own `--fit-ctx` (fit_params_min_ctx, common/common.h @ b11434)."""
_STEP = 256


@dataclass(frozen=True, slots=True)
class ContextCell:
    """One cell of the table of contexts. n_ctx 0: none fits. why_not: llama.cpp refuses this cache type here."""

    n_draft: int
    cache_type: str
    n_ctx: int
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class Offload:
    """What stays in RAM: expert tensors of the first n_cpu_moe layers, and all layers before the last n_gpu_layers."""

    n_gpu_layers: int | None = None
    n_cpu_moe: int = 0


@dataclass(frozen=True, slots=True)
class Finder:
    """Finds layouts of one model on these devices."""

    planned: PlannedModel
    devices: tuple[Device, ...]
    reserve_nbytes: int
    _layouts: dict[tuple[Placement, bool], LaidOut] = field(default_factory=dict, repr=False, compare=False)
    """Layouts made so far: a search asks for the same one at many contexts."""

    def budget(self, offload: Offload, serving: Serving) -> Budget:
        """The budget of this start, its layers split so that all devices are about equally full."""
        placement = Placement(self._even(), offload.n_gpu_layers, offload.n_cpu_moe)
        laid_out = self._laid_out(placement, serving)
        found = budget(laid_out, serving)
        if len(self.devices) == 1:
            return found
        placement = replace(placement, splits=self._balanced(laid_out, found))
        return budget(self._laid_out(placement, serving), serving)

    def largest(self, offload: Offload, serving: Serving) -> Budget | None:
        """The budget of the largest context that fits, up to what the model was trained for; None when none does.

        Slots: each gets its part of the context, so that `n_parallel` times the trained context is the most.
        """
        step = _STEP * serving.n_streams
        most = max(1, self.planned.shape.n_ctx_train * serving.n_streams // step)
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.budget(offload, replace(serving, n_ctx=middle * step)).fits:
                low = middle
            else:
                high = middle - 1
        return self.budget(offload, replace(serving, n_ctx=low * step)) if low else None

    def offload_for(self, serving: Serving) -> Offload | None:
        """The least that must stay in RAM at this context; None when nothing fits.

        Experts go first: they are most of a MoE model and few of them work on each token. Then whole layers.
        """

        def fits(offload: Offload) -> bool:
            return self.budget(offload, serving).fits

        if fits(Offload()):
            return Offload()
        n_all = len(self.planned.shape.layers)
        n_cpu_moe = 0
        if any(is_expert(tensor.name) for tensor in self.planned.model.tensors):
            kept = _least(1, n_all, lambda n: fits(Offload(n_cpu_moe=n)))
            if kept is not None:
                return Offload(n_cpu_moe=kept)
            n_cpu_moe = n_all
        left = _least(1, n_all, lambda n: fits(Offload(n_all + 1 - n, n_cpu_moe)))
        return None if left is None else Offload(n_all + 1 - left, n_cpu_moe)

    def contexts(
        self, offload: Offload, serving: Serving, depths: tuple[int, ...], types: tuple[str, ...]
    ) -> tuple[ContextCell, ...]:
        """The largest context of every depth and cache type, with the same weights in RAM."""
        cells = []
        for depth in depths:
            for name in types:
                wanted = replace(serving, n_draft=depth, cache_type_k=name, cache_type_v=name)
                why = unfit_type(self.planned.shape, name, name)
                found = self.largest(offload, wanted) if why is None else None
                cells.append(ContextCell(depth, name, found.serving.n_ctx if found else 0, why))
        return tuple(cells)

    def _laid_out(self, placement: Placement, serving: Serving) -> LaidOut:
        drafting = serving.n_draft > 0
        made = self._layouts.get((placement, drafting))
        if made is None:
            made = lay_out(self.planned, self.devices, placement, drafting=drafting, reserve_nbytes=self.reserve_nbytes)
            self._layouts[placement, drafting] = made
        return made

    def _even(self) -> tuple[float, ...]:
        free = [float(max(1, device.n_bytes - self.reserve_nbytes)) for device in self.devices]
        return tuple(free) if len(free) > 1 else (1.0,)

    def _balanced(self, laid_out: LaidOut, first: Budget) -> tuple[float, ...]:
        """Layers per device (`-ts`), the output counting as one, so that each is as full as its room allows.

        llama.cpp splits by count of layers; experts kept in RAM make the first of them small, and one device full.
        """
        costs = layer_nbytes(laid_out, first.serving)
        rooms = [
            max(1, device.n_bytes - use.reserve - use.compute)
            for device, use in zip(self.devices, first.uses, strict=True)
        ]
        total, counts, done, taken = sum(costs), [], 0, 0.0
        for number in range(len(rooms)):
            goal = total * sum(rooms[: number + 1]) / sum(rooms)
            n = 0
            while done < len(costs) and (number == len(rooms) - 1 or taken + costs[done] / 2 <= goal):
                taken += costs[done]
                done += 1
                n += 1
            counts.append(n)
        return tuple(float(n) for n in counts)


def _least(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """The least n from low to high for which a monotonic condition holds."""
    if low > high or not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
