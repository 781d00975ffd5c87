#!/usr/bin/env python3
"""A llama-server whose engine is the wheel xllamacpp: llama.cpp's own HTTP server behind a small command line.

So that the default suite can start, ask, kill and lose a real llama.cpp server without a build. Nothing of an answer is
made up here; only the options are parsed by hand. Run as a program with the arguments of llama-server.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

HELP = """----- common params -----

-h,    --help, --usage                  print usage and exit
--version                               show version and build info
-c,    --ctx-size N                     size of the prompt context
-t,    --threads N                      number of CPU threads to use during generation
-tb,   --threads-batch N                number of threads to use during batch and prompt processing
-b,    --batch-size N                   logical maximum batch size
-ub,   --ubatch-size N                  physical maximum batch size
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
-ctk,  --cache-type-k TYPE              KV cache data type for K
-m,    --model FNAME                    model path to load
-fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory ('on' or
                                        'off', default: 'on')
-cram, --cache-ram N                    set the maximum cache size in MiB
--warmup, --no-warmup                   whether to perform warmup with an empty run (default: enabled)
-np,   --parallel N                     number of server slots
--host HOST                             ip address to listen
--port PORT                             port to listen
--api-key-file FNAME                    path to file containing API keys
--metrics                               enable prometheus compatible metrics endpoint (default: disabled)

----- speculative params -----

--spec-draft-n-max N                    number of tokens to draft for speculative decoding (default: 3)
--spec-draft-p-min, --draft-p-min P     minimum speculative decoding probability (greedy) (default: 0.00)
--spec-draft-model, -md, --model-draft FNAME
                                        draft model for speculative decoding (default: unused)
--spec-type none,draft-simple,draft-eagle3,draft-mtp,ngram-simple
                                        comma-separated list of types of speculative decoding to use (default:
                                        none)

--draft, --draft-n, --draft-max N       the argument has been removed. use --spec-draft-n-max or
                                        --spec-ngram-mod-n-max
"""
FLAGS = {"--metrics", "--no-warmup"}


def main() -> int:
    if "--version" in sys.argv:
        sys.stderr.write("version: 11549 (xllamacpp)\nbuilt with PyPI xllamacpp\n")
        return 0
    if "--help" in sys.argv:
        sys.stdout.write(HELP)
        return 0
    given = options(sys.argv[1:])
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = given["-m"]
    params.n_ctx = int(given["-c"])
    params.n_parallel = int(given["-np"])
    params.cpuparams.n_threads = int(given["-t"])
    params.cpuparams_batch.n_threads = int(given["-tb"])
    if "-b" in given:
        params.n_batch, params.n_ubatch = int(given["-b"]), int(given["-ub"])
    params.warmup = "--no-warmup" not in given
    params.fit_params = given.get("--fit") != "off"
    params.cache_ram_mib = int(given.get("--cache-ram", "8192"))
    params.endpoint_metrics = "--metrics" in given
    params.hostnames = [given["--host"]]
    params.port = int(given["--port"])
    params.api_keys = Path(given["--api-key-file"]).read_text().split()
    if given.get("--spec-type") == "draft-mtp":
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
        params.speculative.draft.n_max = int(given["--spec-draft-n-max"])
        params.speculative.draft.p_min = float(given["--spec-draft-p-min"])
        if "-md" in given:
            params.speculative.draft.mparams.path = given["-md"]
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        time.sleep(0.2)  # its log thread writes the reason
        return 1
    ended.wait()
    assert server is not None
    os._exit(0)  # xllamacpp's own end waits for idle connections, up to some seconds


def options(arguments: list[str]) -> dict[str, str]:
    """Later ones win, as in llama-server."""
    found: dict[str, str] = {}
    rest = iter(arguments)
    for name in rest:
        if name not in FLAGS and name not in HELP:
            sys.stderr.write(f"error: invalid argument: {name}\n")
            raise SystemExit(1)
        found[name] = "" if name in FLAGS else next(rest)
    return found


if __name__ == "__main__":
    sys.exit(main())
