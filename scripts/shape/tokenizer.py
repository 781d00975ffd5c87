"""A byte-level BPE tokenizer of any size: bytes, then words of two and four letters, each a merge of two earlier."""

from __future__ import annotations

from itertools import islice, product
from string import ascii_lowercase

from mtpgraft.container.encode import make_array, make_key
from mtpgraft.container.types import ValueType
from mtpgraft.container.values import Key

_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_NORMAL, _CONTROL = 1, 3  # llama_token_type


def byte_chars() -> list[str]:
    """GPT-2's printable stand-in of every byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars = {byte: chr(byte) for byte in plain}
    for number, byte in enumerate(byte for byte in range(256) if byte not in chars):
        chars[byte] = chr(256 + number)
    return [chars[byte] for byte in range(256)]


def tokenizer_keys(n_vocab: int) -> list[Key]:
    """Keys of a tokenizer with exactly `n_vocab` tokens (at least 300)."""
    pairs = ["".join(pair) for pair in product(ascii_lowercase, repeat=2)]
    tokens = byte_chars()
    merges: list[str] = []
    n_words = n_vocab - len(tokens) - len(_SPECIALS)
    for word in islice(pairs, n_words):
        tokens.append(word)
        merges.append(f"{word[0]} {word[1]}")
    for left, right in islice(product(pairs, pairs), max(0, n_words - len(pairs))):
        tokens.append(left + right)
        merges.append(f"{left} {right}")
    types = [_NORMAL] * len(tokens) + [_CONTROL] * len(_SPECIALS)
    tokens += _SPECIALS
    if len(tokens) != n_vocab:
        raise SystemExit(f"a vocabulary has 300 to {256 + 3 + len(pairs) + len(pairs) ** 2} tokens, not {n_vocab}")
    text, u32, flag = ValueType.STRING, ValueType.UINT32, ValueType.BOOL
    return [
        make_key("tokenizer.ggml.model", text, "gpt2", "<"),
        make_key("tokenizer.ggml.pre", text, "qwen35", "<"),
        make_array("tokenizer.ggml.tokens", text, tokens, "<"),
        make_array("tokenizer.ggml.token_type", ValueType.INT32, types, "<"),
        make_array("tokenizer.ggml.merges", text, merges, "<"),
        make_key("tokenizer.ggml.eos_token_id", u32, n_vocab - 1, "<"),
        make_key("tokenizer.ggml.padding_token_id", u32, n_vocab - 3, "<"),
        make_key("tokenizer.ggml.add_bos_token", flag, False, "<"),
        make_key("tokenizer.chat_template", text, _TEMPLATE, "<"),
    ]
