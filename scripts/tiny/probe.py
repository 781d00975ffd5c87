"""Load one GGUF in llama.cpp (xllamacpp, in process) and see whether it drafts.

    python probe.py MODEL [--draft SIDECAR] [--no-mtp]

Prints one JSON line: {"draft_n": ..., "draft_n_accepted": ..., "predicted_n": ..., "text": ...}. llama.cpp
may abort or crash on a bad file, so the caller runs this in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import xllamacpp  # type: ignore[import-untyped]

# A random model's argmax may be a special token; letters and spaces keep the completion going.
GRAMMAR = "root ::= [a-z ]+"
N_PREDICT = 24


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--draft")
    parser.add_argument("--no-mtp", action="store_true")
    args = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 256, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = params.fit_params = False
    params.verbosity = 2
    if not args.no_mtp:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
        params.speculative.draft.n_max = 3
        if args.draft:
            params.speculative.draft.mparams.path = args.draft
    request = {
        "prompt": "the cat sat on",
        "n_predict": N_PREDICT,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
        "grammar": GRAMMAR,
    }
    answer = xllamacpp.Server(params).handle_completions(request)
    if isinstance(answer, (str, bytes)):
        answer = json.loads(answer)
    timings = answer.get("timings", {})
    result = {key: timings.get(key, 0) for key in ("draft_n", "draft_n_accepted", "predicted_n")}
    result["text"] = answer["choices"][0]["text"] if "choices" in answer else str(answer)[:200]
    print(json.dumps(result))
    # The server's threads may hang or crash at interpreter exit; the result is out.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
