"""Long text for prompts of a given depth: the same on every machine, and never the same passage twice.

Paragraphs are taken in turn; each time, its words in braces are filled anew: `{n}` with a number, any other from its
list. So a long prompt goes on in one manner without repeating itself: text that repeats is drafted far too well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

# English in large vocabularies has 4 to 4.7 characters per token, so a prompt has rather fewer tokens than its depth
# says; the measured `prompt_n` is what counts.
CHARS_PER_TOKEN = 4
_WORD = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Filler:
    """paragraphs: texts with words in braces. words: what may stand for each."""

    paragraphs: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]

    def text(self, depth: int) -> str:
        """About `depth` tokens: whole paragraphs, each under a number, the first one beyond the length cut off."""
        wanted = depth * CHARS_PER_TOKEN
        parts: list[str] = []
        n_chars = 0
        while n_chars < wanted:
            parts.append(self._section(len(parts)))
            n_chars += len(parts[-1])
        whole = "".join(parts[:-1])
        return whole or parts[0]

    def unknown_words(self) -> list[str]:
        """Words in braces that nothing stands for."""
        used = {word for paragraph in self.paragraphs for word in _WORD.findall(paragraph)}
        return sorted(used - set(self.words) - {"n"})

    def _section(self, number: int) -> str:
        paragraph = self.paragraphs[number % len(self.paragraphs)]
        count = 0

        def fill(match: re.Match[str]) -> str:
            nonlocal count
            count += 1
            drawn = int.from_bytes(hashlib.sha256(f"{number}.{count}".encode()).digest()[:8], "big")
            name = match.group(1)
            return str(2 + drawn % 97) if name == "n" else self.words[name][drawn % len(self.words[name])]

        return f"{number + 1}. {_WORD.sub(fill, paragraph)}\n\n"
