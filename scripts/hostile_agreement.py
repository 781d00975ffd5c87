"""Thousands of damaged models, each given to llama.cpp (embedded) and to mtpgraft: where do they disagree?

    python scripts/hostile_agreement.py --n 5000 --seed 1 [--out runs.jsonl]

Every file is made by tests/damage.py from a tiny model of one of the architectures, with and without its head, and
loaded by llama.cpp in a process of its own. Prints a table of agreement and, per class of disagreement, how many there
were and one seed that gives it again (`--seed N --keep FILE` writes that file). Exit code 1 when llama.cpp loads a file
that mtpgraft refuses, or mtpgraft ends in anything but its own errors. Needs the extra `bench`; about 0.1 s per file on
one core. Linux and macOS.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mtpgraft.audit.gguf import judge  # noqa: E402
from mtpgraft.container import open_gguf  # noqa: E402
from mtpgraft.errors import ExitCode, InputError, MtpgraftError, RefusedError  # noqa: E402
from mtpgraft.head import find_head  # noqa: E402
from mtpgraft.plan import plan_strip  # noqa: E402
from tests.conftest import TINY  # noqa: E402
from tests.damage import damaged  # noqa: E402
from tests.ggufbuild import Built  # noqa: E402
from tests.test_head import from_file  # noqa: E402

_FILES = ("whole.gguf", "no-mtp.gguf", "mtp.gguf")
_LIMIT_S = 20
_REASON = re.compile(r"error loading model: (.*)|(GGML_ASSERT\(.*)|gguf_init\w*: (?!failed to read)(.*)", re.MULTILINE)


def llama_cpp(path: Path) -> tuple[bool, str]:
    """(loads, what it said last) of this file, in a forked process."""
    import xllamacpp

    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os.dup2(write_end, 1)
        os.dup2(write_end, 2)
        signal.alarm(_LIMIT_S)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_batch, params.n_ubatch = 256, 1, 64, 64
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.warmup = params.fit_params = params.endpoint_slots = params.ui = False
        params.cache_ram_mib = 0
        try:
            server = xllamacpp.Server(params)  # named, because a server that is let go may wait for itself
        except BaseException:
            time.sleep(0.05)  # for the thread that writes the log
            os._exit(3)
        os._exit(0 if server else 3)
    os.close(write_end)
    said = b""
    while part := os.read(read_end, 65536):
        said += part
    os.close(read_end)
    _, status = os.waitpid(child, 0)
    if status == 0:
        return True, "loads"
    found = [next(filter(None, match)) for match in _REASON.findall(said.decode("utf-8", "replace"))]
    telling = [line for line in found if not line.startswith("llama_model_loader")]
    reason = (telling or found or ["said nothing"])[-1]
    return False, f"signal {status & 127}: {reason}" if status & 127 else reason


def ours(path: Path) -> tuple[bool, str]:
    """(loads, verdict and rules of audit or the error), and everything else that is done with a header."""
    begin = time.perf_counter()
    try:
        with open_gguf(path) as model:
            head = find_head(model)
            judged = judge(model, "m.gguf")
            said = judged.result().verdict.value + "".join(f" {found.rule.id}" for found in judged.findings)
            with suppress(InputError, RefusedError):  # a record of undoing may be damaged in a file that loads
                plan_strip(model, head, path.with_name("out.gguf"))
        loads = True
    except MtpgraftError as error:
        assert error.exit_code is ExitCode.BAD_INPUT, error
        assert "\n" not in str(error), error
        loads, said = False, str(error).replace(str(path), "")
    assert time.perf_counter() - begin < 2, "took too long"
    return loads, said


def without_numbers(text: str) -> str:
    """The class that a message belongs to."""
    text = re.sub(r"'[^']*'|`[^`]*`", "'...'", text)
    text = re.sub(r"(key|tensor|tensors in) (?!not found|of |has )\S+", r"\1 ...", text)
    return re.sub(r"-?\d+(?:\.\d+)?", "N", text)[:110]


def models() -> dict[str, Built]:
    """name -> a tiny model that llama.cpp loads, with a head and without."""
    return {
        f"{folder.name}/{name}": from_file(folder / name)
        for folder in sorted(TINY.iterdir())
        for name in _FILES[:2]
        if (folder / name).is_file()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="of the first file; one more for each")
    parser.add_argument("--model", default="", help="only those models whose name holds this")
    parser.add_argument("--out", type=Path, help="one line of JSON per file")
    parser.add_argument("--keep", type=Path, help="write the file of --seed here and stop")
    options = parser.parse_args()
    originals = {name: built for name, built in models().items() if options.model in name}
    counts: Counter[tuple[bool, bool]] = Counter()
    classes: dict[tuple[bool, str, str], list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        for seed in range(options.seed, options.seed + options.n):
            name = sorted(originals)[seed % len(originals)]
            what, raw = damaged(seed, copy.deepcopy(originals[name]))
            if options.keep:
                options.keep.write_bytes(raw)
                print(name, what)
                return 0
            path.write_bytes(raw)
            try:
                we, we_said = ours(path)
            except Exception as error:
                print(f"seed {seed} ({name}: {what}): {type(error).__name__}: {error}", file=sys.stderr)
                we, we_said = False, f"BUG {type(error).__name__}: {error}"
            they, they_said = llama_cpp(path)
            counts[we, they] += 1
            if we != they or we_said.startswith("BUG"):
                key = (we, without_numbers(they_said), we_said if we else without_numbers(we_said))
                classes.setdefault(key, []).append(seed)
            if options.out:
                with options.out.open("a") as file:
                    row = {"seed": seed, "model": name, "what": what, "we": [we, we_said], "llama": [they, they_said]}
                    file.write(json.dumps(row) + "\n")
    for (we, they), n in sorted(counts.items(), reverse=True):
        print(f"{n:6}  mtpgraft {'reads' if we else 'refuses'}, llama.cpp {'loads' if they else 'refuses'}")
    for (we, they_said, we_said), seeds in sorted(classes.items(), key=lambda item: (item[0][0], -len(item[1]))):
        print(f"\n{len(seeds):5}  seed {seeds[0]}  mtpgraft {'reads' if we else 'refuses'}: {we_said}")
        print(f"       llama.cpp: {they_said}")
    bugs = any(we_said.startswith("BUG") for _, _, we_said in classes)
    return int(bugs or counts[False, True] > 0)


if __name__ == "__main__":
    sys.exit(main())
