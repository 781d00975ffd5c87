"""Prompts and suites as values. Figures from different suites are never comparable, so a suite has a content hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

COMPLETION, CHAT = "completion", "chat"
SHAPES = (COMPLETION, CHAT)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt. category: what its figures are grouped by.

    depth: about how many tokens it has, where that is what it measures; 0: it is short. A prompt with a depth that does
    not fit into the context is left out with a note; any other prompt that does not fit is an error.
    """

    id: str
    category: str
    text: str
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Suite:
    """Prompts that are measured together.

    shape: how a prompt reaches the model: `completion` is the raw text, `chat` one user message in the chat template.
    n_predict: tokens asked for per prompt, unless a run says otherwise.
    """

    name: str
    shape: str
    n_predict: int
    prompts: tuple[Prompt, ...]

    @property
    def hash(self) -> str:
        """SHA-256, hex, of the shape and the prompts in their order: what the model sees, not what it is called."""
        content = [self.shape, [[prompt.id, prompt.category, prompt.text] for prompt in self.prompts]]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
