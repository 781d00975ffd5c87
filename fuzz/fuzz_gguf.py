"""Coverage-guided fuzzing of the header reader, the head finder and the planner of strip (PyPI `atheris`).

    python fuzz/fuzz_gguf.py fuzz/corpus -max_len=8192 -max_total_time=3600

Any exception that is not an MtpgraftError of exit code 2, and any tensor outside its file, is a crash.
`python fuzz/make_corpus.py` makes the checked-in corpus again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris
from memory import Memory

with atheris.instrument_imports(include=["mtpgraft"]):
    from mtpgraft.container import gguf_from_sources
    from mtpgraft.errors import ExitCode, MtpgraftError
    from mtpgraft.head import find_head
    from mtpgraft.plan import plan_strip
    from mtpgraft.report.surgery import inspect_facts, inspect_json, plan_json


def one_input(data: bytes) -> None:
    """Everything that is done with a header before tensor data is read."""
    try:
        model = gguf_from_sources([Memory(data)])
        for tensor in model.tensors:
            assert 0 <= tensor.offset <= tensor.offset + tensor.n_bytes <= max(len(data), tensor.offset), tensor
        head = find_head(model)
        inspect_json(model, head)
        inspect_facts(model, head)
        plan = plan_strip(model, head, Path("out.gguf"))
        plan_json(plan)
    except MtpgraftError as error:
        assert error.exit_code == ExitCode.BAD_INPUT, error
        assert "\n" not in str(error), error


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
