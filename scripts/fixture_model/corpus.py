"""Training text from the running Python's own standard library, and a byte-level BPE tokenizer for it.

Everything read here is part of CPython and licensed under PSF-2.0, so the fixture needs no download.
"""

from __future__ import annotations

import ast
import hashlib
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")

# The split that llama.cpp applies for the pre-tokenizer name "qwen35" (src/llama-vocab.cpp,
# LLAMA_VOCAB_PRE_TYPE_QWEN35, build b11434) and that Qwen3.5's tokenizer.json carries.
QWEN35_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# `encodings` is mostly generated code-page tables; `test` would more than double the corpus with text
# that a model this small gains little from.
_SKIPPED_ALWAYS = frozenset({"site-packages", "__pycache__", "encodings", "config", "lib-dynload"})
_SKIPPED_TESTS = frozenset({"test", "tests", "idle_test"})
_MIN_DOCUMENT_CHARS = 200


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents in a seeded order; `sha256` covers their text in that order."""

    documents: tuple[str, ...]
    n_chars: int
    sha256: str


def _library_sources(root: Path, with_tests: bool) -> Iterator[str]:
    skipped = _SKIPPED_ALWAYS if with_tests else _SKIPPED_ALWAYS | _SKIPPED_TESTS
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if skipped.isdisjoint(relative.parts[:-1]) and relative.as_posix() != "pydoc_data/topics.py":
            yield path.read_text(encoding="utf-8", errors="ignore")


def _help_topics(root: Path) -> Iterator[str]:
    """The language reference's prose, which the library carries for `help()` as one dict literal."""
    path = root / "pydoc_data" / "topics.py"
    if not path.is_file():
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from ast.literal_eval(node.value).values()


def load_corpus(seed: int, with_tests: bool) -> Corpus:
    """Read the standard library's sources and help texts, without anything installed by pip."""
    root = Path(sysconfig.get_paths()["stdlib"])
    documents = [*_library_sources(root, with_tests), *_help_topics(root)]
    documents = [text for text in documents if len(text) >= _MIN_DOCUMENT_CHARS]
    random.Random(seed).shuffle(documents)
    digest = hashlib.sha256()
    for text in documents:
        digest.update(text.encode("utf-8", errors="replace"))
    return Corpus(tuple(documents), sum(map(len, documents)), digest.hexdigest())


def train_tokenizer(corpus: Corpus, vocab_size: int) -> Tokenizer:
    """Byte-level BPE with exactly `vocab_size` tokens, the special tokens last as Qwen numbers them."""
    tokenizer = Tokenizer(BPE(byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN35_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.documents, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"tokenizer has {tokenizer.get_vocab_size()} tokens, wanted {vocab_size}")
    return tokenizer


def encode(corpus: Corpus, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of all documents, each ended by END_OF_TEXT: (training, held-out), both uint16 [n]."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    encoded = [
        np.array([*encoding.ids, end], dtype=np.uint16)
        for encoding in tokenizer.encode_batch(list(corpus.documents), add_special_tokens=False)
    ]
    n_held_out = max(1, len(encoded) // 50)
    return np.concatenate(encoded[n_held_out:]), np.concatenate(encoded[:n_held_out])
