"""The `mtpgraft` program: its commands, and the one place where errors become text and exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from mtpgraft import __version__
from mtpgraft.cli.audit import audit
from mtpgraft.cli.bench import bench
from mtpgraft.cli.cache import app as cache
from mtpgraft.cli.demo import demo
from mtpgraft.cli.doctor import doctor
from mtpgraft.cli.extract import extract
from mtpgraft.cli.graft import graft
from mtpgraft.cli.inspect import inspect
from mtpgraft.cli.output import debugging, error_text
from mtpgraft.cli.plan import plan
from mtpgraft.cli.recover import recover
from mtpgraft.cli.repair import repair
from mtpgraft.cli.report import report
from mtpgraft.cli.strip import strip
from mtpgraft.cli.verify import verify
from mtpgraft.errors import ExitCode, MtpgraftError

# rich help would cost half of the start-up time
app = typer.Typer(
    name="mtpgraft",
    help="Surgery on the Multi-Token-Prediction (MTP, NextN) heads of GGUF models.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"mtpgraft {__version__}\n")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Surgery on the Multi-Token-Prediction (MTP, NextN) heads of GGUF models."""


for command in (inspect, audit, extract, graft, strip, verify, repair, recover, report, bench, plan, doctor, demo):
    app.command()(command)
app.add_typer(cache, name="cache")


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except MtpgraftError as error:
        if debugging():
            raise
        sys.stderr.write(error_text(error) + "\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # `mtpgraft ... | head` ends here; the interpreter must not complain again when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.DONE)
    except KeyboardInterrupt:
        sys.stderr.write("mtpgraft: interrupted; nothing was changed\n")
        sys.exit(130)
    except Exception as error:
        if debugging():
            raise
        sys.stderr.write(
            f"mtpgraft: this is a bug in mtpgraft: {type(error).__name__}: {error}\n"
            "  try: run it again with MTPGRAFT_DEBUG=1 and report the traceback\n"
        )
        sys.exit(ExitCode.BUG)
