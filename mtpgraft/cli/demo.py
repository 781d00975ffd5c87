"""mtpgraft demo"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

from mtpgraft.cli.options import Quiet
from mtpgraft.cli.output import Output
from mtpgraft.errors import InputError

_FILES = ("donor-bf16.gguf", "base-Q2_K.gguf")
_N_PREDICT = 96
_REPEATS = 2


def demo(quiet: Quiet = False) -> None:
    """Run the whole loop on the bundled model.

    A head is taken out of a small trained model, put at Q8_0 onto a 2-bit base, proven byte for byte, taken off again,
    and run in llama.cpp. Each step shows the command that does it. Nothing outside a temporary folder is written.
    """
    from mtpgraft.bench.run import run_bench
    from mtpgraft.cli.bench import show
    from mtpgraft.cli.extract import Kind, extract
    from mtpgraft.cli.graft import graft
    from mtpgraft.cli.inspect import inspect
    from mtpgraft.cli.strip import strip
    from mtpgraft.cli.verify import verify

    output = Output(quiet=quiet)
    donor, base = demo_files()
    with tempfile.TemporaryDirectory(prefix="mtpgraft-demo-") as name:
        folder = Path(name)
        head, out, back = folder / "head.gguf", folder / "model-Q2_K-MTP.gguf", folder / "back.gguf"
        steps: list[tuple[list[object], Callable[[], None]]] = [
            (["inspect", base], lambda: inspect(str(base), quiet=quiet)),
            (["extract", donor, "-o", head], lambda: extract(str(donor), head, Kind.donor, quiet=quiet)),
            (["graft", base, head, "-o", out], lambda: graft(str(base), str(head), out, quiet=quiet)),
            (
                ["verify", out, "--base", base, "--donor", donor],
                lambda: verify(str(out), str(base), str(donor), quiet=quiet),
            ),
            (["strip", out, "-o", back], lambda: strip(str(out), back, quiet=quiet)),
            (["bench", out, "--n-predict", _N_PREDICT, "--repeats", _REPEATS], lambda: None),
        ]
        for command, step in steps:
            output.lines(["", "$ mtpgraft " + " ".join(shlex.quote(_short(part)) for part in command)])
            step()
        show(output, run_bench(out, n_predict=_N_PREDICT, repeats=_REPEATS))
        output.lines(
            ["(a model this small is not made faster: its trunk costs hardly more than its head; see the acceptance)"]
        )
        same = back.read_bytes() == base.read_bytes()
        output.lines(["", f"strip gave the base back: {'identical' if same else 'NOT identical'}"])


def demo_files() -> tuple[Path, Path]:
    """The bundled donor and base: inside an installed package, or in the checkout it was installed from."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "demo_data", package.parent / "fixtures" / "trained"):
        paths = [folder / name for name in _FILES]
        if all(path.is_file() for path in paths):
            return paths[0], paths[1]
    raise InputError(
        "the bundled model is missing", file=package / "demo_data", hint="install mtpgraft again, from a whole checkout"
    )


def _short(part: object) -> str:
    return part.name if isinstance(part, Path) else str(part)
