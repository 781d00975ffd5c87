"""A small Qwen3.5 text model (transformers' own trunk) with the MTP block that real repositories ship.

The block is wired as llama.cpp runs it (src/models/qwen35.cpp, graph_mtp, build b11434): it sees the
trunk's hidden state *after* the final norm and the embedding of the next token, joined in the order
[enorm(embedding); hnorm(hidden)], and predicts the token after that one through the shared lm_head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5DecoderLayer, Qwen3_5RMSNorm

FULL_ATTENTION_INTERVAL = 4


@dataclass(frozen=True, slots=True)
class Preset:
    """Sizes of one model and how it is trained.

    All matrix rows are multiples of 256, the super-block of llama.cpp's K and IQ quants, so that
    llama-quantize falls back for none of them.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    n_linear_key_heads: int
    n_linear_value_heads: int
    with_tests: bool
    batch_size: int
    seq_len: int
    learning_rate: float


PRESETS = {
    "small": Preset(2048, 256, 256, 4, 4, 1, 2, 4, False, 8, 256, 3e-3),
    "large": Preset(8192, 768, 2048, 12, 12, 3, 6, 12, True, 32, 512, 1e-3),
}


def make_config(preset: Preset, end_of_text_id: int) -> Qwen3_5TextConfig:
    """A Qwen3.5 text config with tied embeddings (as Qwen3.5 0.8B to 4B have) and one MTP layer."""
    return Qwen3_5TextConfig(
        vocab_size=preset.vocab_size,
        hidden_size=preset.hidden_size,
        intermediate_size=preset.intermediate_size,
        num_hidden_layers=preset.n_layers,
        num_attention_heads=preset.n_heads,
        num_key_value_heads=preset.n_kv_heads,
        head_dim=64,
        linear_num_key_heads=preset.n_linear_key_heads,
        linear_num_value_heads=preset.n_linear_value_heads,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        linear_conv_kernel_dim=4,
        full_attention_interval=FULL_ATTENTION_INTERVAL,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        # 16 of 64 dimensions rotate: 8 frequencies, dealt 3/3/2 to the three M-RoPE axes. llama.cpp reads
        # a frequency that no section covers from its fourth, always zero, position stream.
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
        bos_token_id=None,
        eos_token_id=end_of_text_id,
        pad_token_id=None,
    )


class MtpBlock(nn.Module):
    """One MTP layer under the Hugging Face names (`mtp.` + the attribute names here)."""

    def __init__(self, config: Qwen3_5TextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.fc = nn.Linear(2 * width, width, bias=False)
        self.pre_fc_norm_embedding = Qwen3_5RMSNorm(width, eps=config.rms_norm_eps)
        self.pre_fc_norm_hidden = Qwen3_5RMSNorm(width, eps=config.rms_norm_eps)
        full_attention = config.layer_types.index("full_attention")
        self.layers = nn.ModuleList([Qwen3_5DecoderLayer(config, full_attention)])
        self.norm = Qwen3_5RMSNorm(width, eps=config.rms_norm_eps)

    def forward(self, hidden: Tensor, embedding: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """hidden [B, T, D] of tokens t, embedding [B, T, D] of tokens t+1 -> [B, T, D] for tokens t+2."""
        joined = torch.cat([self.pre_fc_norm_embedding(embedding), self.pre_fc_norm_hidden(hidden)], dim=-1)
        return self.norm(self.layers[0](self.fc(joined), position_embeddings=rotary))


@dataclass(frozen=True, slots=True)
class Losses:
    """Cross entropies in nats per token, and how often the MTP block's best guess was the text."""

    next_token: Tensor
    mtp: Tensor
    mtp_hit_rate: Tensor


class TrainedModel(nn.Module):
    """Trunk plus MTP block; `state_dict()` carries the names of a real checkpoint."""

    def __init__(self, config: Qwen3_5TextConfig) -> None:
        super().__init__()
        causal = Qwen3_5ForCausalLM(config)
        self.config = config
        self.model = causal.model
        self.mtp = MtpBlock(config)
        for module in self.mtp.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range)

    def forward(self, ids: Tensor) -> Losses:
        """ids [B, T] int64. The trunk predicts tokens 1..T-1, the MTP block tokens 2..T-1."""
        hidden = self.model(input_ids=ids, use_cache=False).last_hidden_state
        embedding = self.model.embed_tokens.weight
        predicted = linear(hidden[:, :-1], embedding).flatten(0, 1).float()
        trunk_loss = cross_entropy(predicted, ids[:, 1:].flatten())

        positions = torch.arange(1, ids.shape[1] - 1, device=ids.device)[None, None]
        ahead = self.model.embed_tokens(ids[:, 1:-1])
        drafted = self.mtp(hidden[:, :-2], ahead, self.model.rotary_emb(ahead, positions))
        logits = linear(drafted, embedding).flatten(0, 1).float()
        targets = ids[:, 2:].flatten()
        hit_rate = (logits.detach().argmax(-1) == targets).float().mean()
        return Losses(trunk_loss, cross_entropy(logits, targets), hit_rate)
