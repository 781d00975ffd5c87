"""Training state on disk, and the Hugging Face folder that is made from it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from fixture_model.corpus import END_OF_TEXT, SPECIAL_TOKENS
from fixture_model.model import FULL_ATTENTION_INTERVAL, TrainedModel

STATE_FILE = "checkpoint.pt"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Losses in nats per token at one moment; `mtp_hit_rate` is the MTP block's top-1 accuracy."""

    step: int
    elapsed_seconds: float
    train_loss: float
    held_out_loss: float
    held_out_mtp_loss: float
    held_out_mtp_hit_rate: float


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What was trained on what, for the manifest. `history` has one entry per evaluation."""

    command: str
    preset: str
    seed: int
    n_parameters: int
    n_steps: int
    n_tokens_seen: int
    elapsed_seconds: float
    corpus_sha256: str
    corpus_n_chars: int
    corpus_n_tokens: int
    python: str
    torch: str
    transformers: str
    device: str
    history: tuple[Evaluation, ...]


def save_state(folder: Path, state: dict[str, object]) -> None:
    """Replace the checkpoint in one step, so that a killed run leaves the previous one whole."""
    partial = folder / (STATE_FILE + ".partial")
    torch.save(state, partial)
    partial.replace(folder / STATE_FILE)


def hf_tensors(model: TrainedModel) -> dict[str, torch.Tensor]:
    """BF16 tensors under Hugging Face names; tied embeddings, so there is no lm_head.weight."""
    return {name: t.detach().cpu().to(torch.bfloat16).contiguous() for name, t in model.state_dict().items()}


def _config_json(model: TrainedModel) -> dict[str, object]:
    config = model.config.to_dict()
    config.pop("_name_or_path", None)
    config.update(
        architectures=["Qwen3_5ForCausalLM"],
        dtype="bfloat16",
        full_attention_interval=FULL_ATTENTION_INTERVAL,
        mtp_num_hidden_layers=1,
        mtp_use_dedicated_embeddings=False,
    )
    return config


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def export_hf(folder: Path, model: TrainedModel, tokenizer: Tokenizer, record: TrainingRecord) -> None:
    """Write `folder` as a Hugging Face checkpoint, laid out as real Qwen3.5 repositories are."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(hf_tensors(model), partial / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(partial / "tokenizer.json"))
    end_id = tokenizer.token_to_id(END_OF_TEXT)
    _write_json(partial / "config.json", _config_json(model))
    _write_json(partial / "generation_config.json", {"do_sample": False, "eos_token_id": end_id})
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.max_position_embeddings,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": None,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "chat_template": CHAT_TEMPLATE,
    }
    _write_json(partial / "tokenizer_config.json", tokenizer_config)
    _write_json(partial / "training.json", asdict(record))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
