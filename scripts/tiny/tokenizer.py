"""A byte-level BPE tokenizer small enough that the vocabulary does not outweigh the model.

The alphabet is lower-case letters, digits, a little punctuation, space and newline; llama.cpp drops the bytes
that it has no token for (src/llama-vocab.cpp, llm_tokenizer_bpe_session::tokenize, build b11434).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tiny.checkpoint import Json, write_json

N_VOCAB = 64

# The last two are newline and space as the GPT-2 byte alphabet spells them.
_ALPHABET = (*"abcdefghijklmnopqrstuvwxyz0123456789.,:;()_=-'", "Ċ", "Ġ")
_MERGES = ("Ġ t", "h e", "Ġt he")

QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
GLM = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>")


def write_tokenizer(
    folder: Path, specials: Sequence[str], bos: str | None, eos: str, vocab_files: bool = False
) -> None:
    """Write the tokenizer's files; ids beyond the table are the converter's [PADn].

    `vocab_files` writes vocab.json and merges.txt instead of tokenizer.json: beside a tokenizer.json,
    transformers 5.23 ignores the add_bos_token that DeepSeek-V3.2's converter insists on.
    """
    tokens = [*_ALPHABET, *(merge.replace(" ", "") for merge in _MERGES)]
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(tokens) + len(specials) > N_VOCAB:
        raise ValueError(f"{len(tokens)} tokens and {len(specials)} special ones do not fit into {N_VOCAB}")
    added: dict[str, dict[str, Json]] = {
        token: {
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token in specials
    }
    ids = {token: len(tokens) + i for i, token in enumerate(specials)}
    config: dict[str, Json] = {
        "tokenizer_class": "GPT2Tokenizer" if vocab_files else "PreTrainedTokenizerFast",
        "add_bos_token": bos is not None,
        "add_eos_token": False,
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos,
        "model_max_length": 256,
        "clean_up_tokenization_spaces": False,
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }
    if vocab_files:
        config["unk_token"] = eos
        config["added_tokens_decoder"] = {str(ids[token]): facts for token, facts in added.items()}
        write_json(folder / "vocab.json", {**vocab, **ids})
        text = "\n".join(("#version: 0.2", *_MERGES)) + "\n"
        (folder / "merges.txt").write_text(text, encoding="utf-8")
    else:
        write_json(folder / "tokenizer.json", _tokenizer_json(vocab, added, ids))
    write_json(folder / "tokenizer_config.json", config)


def _tokenizer_json(vocab: Mapping[str, int], added: Mapping[str, Mapping[str, Json]], ids: Mapping[str, int]) -> Json:
    byte_level: Json = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token], **facts} for token, facts in added.items()],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": list(_MERGES),
        },
    }
