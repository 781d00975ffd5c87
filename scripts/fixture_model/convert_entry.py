"""Run llama.cpp's own convert_hf_to_gguf.py, naming the pre-tokenizer of a tokenizer it has never seen.

    python convert_entry.py LLAMA_SRC PRE_TOKENIZER [arguments of convert_hf_to_gguf.py...]

The converter recognises pre-tokenizers by a hash over a test text's token ids (conversion/base.py,
get_vocab_base_pre, build b11434), which no newly trained vocabulary can match. That one method is answered
here; the source stays as it is. Runs in the converter's own environment: imports nothing of this project.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    source, pre_tokenizer = Path(sys.argv[1]), sys.argv[2]
    script = source / "convert_hf_to_gguf.py"
    # The converter imports the gguf-py beside it; PyPI's lacks architectures although both say 0.19.0.
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    from conversion.base import TextModel  # type: ignore[import-not-found]

    TextModel.get_vocab_base_pre = lambda self, tokenizer: pre_tokenizer
    sys.argv = [str(script), *sys.argv[3:]]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
