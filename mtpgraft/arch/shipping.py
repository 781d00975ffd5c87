"""Do the models of an architecture come with a head? What a headless file of it then means.

The header of a GGUF says nothing of the model it was made from, so a missing head is judged by this and by what the
upstream, where it can be read, really holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from mtpgraft.arch.spec import ArchSpec, GraphSupport, LoadPolicy


class Ships(Enum):
    """Whether released models of an architecture hold a head."""

    ALWAYS = "always"
    SOMETIMES = "sometimes"
    """Only the models that `Shipping.names` tells by their names."""
    SEPARATELY = "separately"
    """In a file of its own, by design: the model's own file never has it."""
    UNUSED = "unused"
    """No llama.cpp graph runs a head of this architecture: a file without one lacks nothing that could be used."""


@dataclass(frozen=True, slots=True)
class Shipping:
    """ships: see Ships. names: what is in the name of the models that have a head (SOMETIMES). except_: models of the
    architecture that have none although most do. source: where that is from."""

    ships: Ships
    names: str = ""
    except_: str = ""
    source: str = ""

    def expects_head(self, model_names: Iterable[str]) -> bool | None:
        """Whether a model of these names ought to have a head: True, False, or None when it cannot be said."""
        text = " ".join(model_names).lower()
        if self.ships in (Ships.SEPARATELY, Ships.UNUSED):
            return False
        if self.except_ and re.search(self.except_, text):
            return False
        if self.ships is Ships.ALWAYS:
            return True
        return True if self.names and re.search(self.names, text) else None


_SHIPPING: dict[str, Shipping] = {
    "deepseek2": Shipping(
        Ships.SOMETIMES,
        names=r"glm[-_ ]?4\.7[-_ ]?flash",
        source="conversion/deepseek.py:240, 398 and conversion/glm.py:247-314 @ b11434: only GLM-4.7-Flash keeps it",
    ),
    "deepseek4": Shipping(Ships.SEPARATELY, source="src/models/deepseek4.cpp:20-26 @ b11434"),
    "gemma4": Shipping(Ships.SEPARATELY, source="src/models/gemma4-assistant.cpp:21-76 @ b11434"),
    "glm4moe": Shipping(
        Ships.ALWAYS, except_=r"solar", source="conversion/glm.py:111-196 @ b11434 (Solar Open: without a head)"
    ),
    "nemotron_h_moe": Shipping(
        Ships.SOMETIMES,
        names=r"super|ultra",
        except_=r"puzzle|nano",
        source="config.json of Nemotron 3 Super and Ultra; Nano and Puzzle convert without a head",
    ),
}


def shipping_of(spec: ArchSpec) -> Shipping:
    """What is known of the models of this architecture."""
    known = _SHIPPING.get(spec.name)
    if known is not None:
        return known
    unused = not spec.is_mtp or spec.graph is GraphSupport.NONE or spec.policy is LoadPolicy.UNHANDLED
    return Shipping(Ships.UNUSED if unused else Ships.ALWAYS, source=spec.source)
