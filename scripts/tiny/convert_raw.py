"""convert_entry.py with config.json read as it is, as the converter does for models unknown to transformers.

    python convert_raw.py LLAMA_SRC PRE_TOKENIZER [arguments of convert_hf_to_gguf.py...]

transformers 5.23 knows some configs and renames keys that llama.cpp b11434's converter then misses (step3p5:
num_attention_groups). conversion/base.py, ModelBase.load_hparams, falls back to config.json when AutoConfig
raises; here it always does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parents[1]))
from fixture_model import convert_entry


class _UnknownModel:
    @staticmethod
    def from_pretrained(*_args: object, **_kwargs: object) -> NoReturn:
        raise ValueError("config.json is to be read as it is")


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    source = Path(sys.argv[1])
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    import conversion.base  # type: ignore[import-not-found]

    conversion.base.AutoConfig = _UnknownModel
    convert_entry.main()


if __name__ == "__main__":
    main()
