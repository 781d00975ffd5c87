"""The model card that goes into the fixture's checkpoint folder.

The converter copies `license` and `language` of its front matter into general.* keys, as it does for real
repositories.
"""

from __future__ import annotations

from collections.abc import Mapping

_CARD = """\
---
license: mit
language:
- en
tags:
- mtp
- test-fixture
---
# {name}

A {n_parameters:,}-parameter Qwen3.5 text model with its Multi-Token-Prediction block, trained from scratch
for {minutes:.0f} minutes on the Python {python} standard library's sources and help texts. It is a test
fixture of mtpgraft: it writes Python that looks right and means little, and its MTP block drafts that text
well.

- {n_steps:,} steps, {n_tokens_seen:,} tokens, seed {seed}; the corpus has {corpus_n_tokens:,} tokens
- held-out loss {loss:.3f} nats per token (next token), {mtp_loss:.3f} (MTP); the MTP block's best guess is
  the text's token {hit_rate:.0%} of the time
- tied embeddings; `mtp_num_hidden_layers` is 1; tensors are BF16 under the names that real repositories use
- the history of the run is in training.json

Licence: the weights are offered under the project's MIT licence. The training text is under PSF-2.0; its
notice is in fixtures/LICENSE.
"""


def model_card(name: str, record: Mapping[str, object]) -> str:
    """`record` is training.json as train_fixture.py writes it."""
    last = record["history"][-1]  # type: ignore[index]
    fields = dict(record)
    fields.update(
        name=name,
        minutes=float(record["elapsed_seconds"]) / 60,  # type: ignore[arg-type]
        loss=last["held_out_loss"],
        mtp_loss=last["held_out_mtp_loss"],
        hit_rate=last["held_out_mtp_hit_rate"],
    )
    return _CARD.format_map(fields)
