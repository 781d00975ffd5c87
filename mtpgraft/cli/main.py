"""The `mtpgraft` program: its commands, and the one place where errors become text and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from mtpgraft import __version__
from mtpgraft.cli import streams
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
from mtpgraft.errors import ExitCode, InputError, MtpgraftError

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
        streams.write(f"mtpgraft {__version__}\n")
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
    streams.prepare()
    code = _reported(app)
    if code in (ExitCode.DONE, ExitCode.FINDINGS):
        code = _reported(streams.flush) or code
    sys.exit(code)


def _reported(run: Callable[[], None]) -> int:
    """The exit code of what runs; its error, if it ends in one, on stderr."""
    try:
        run()
    except SystemExit as ended:
        return _code_of(ended)
    except MtpgraftError as error:
        if debugging():
            raise
        sys.stderr.write(error_text(error) + "\n")
        return error.exit_code
    except Exception as error:
        if debugging():
            raise
        if isinstance(error, OSError) and error.errno in streams.FULL:  # typer's own writing to stdout
            streams.discard()
            sys.stderr.write(f"mtpgraft: the result cannot be written: {error.strerror}\n")
            return ExitCode.RETRY
        if isinstance(error, OSError) and error.filename is not None:  # a name too long, a folder that is closed to us
            sys.stderr.write(error_text(InputError(f"cannot be used: {error.strerror}", file=error.filename)) + "\n")
            return ExitCode.BAD_INPUT
        sys.stderr.write(
            f"mtpgraft: this is a bug in mtpgraft: {type(error).__name__}: {error}\n"
            "  try: run it again with MTPGRAFT_DEBUG=1 and report the traceback\n"
        )
        return ExitCode.BUG
    return ExitCode.DONE


def _code_of(ended: SystemExit) -> int:
    """The exit code that typer chose; of Ctrl-C and closed pipes it makes bare exit codes, without a word."""
    cause = ended.__context__
    if isinstance(cause, BrokenPipeError):
        streams.discard()
        return ExitCode.DONE
    if cause is not None and isinstance(cause.__cause__, KeyboardInterrupt):
        sys.stderr.write("mtpgraft: interrupted; no model was changed\n")
    return ended.code if isinstance(ended.code, int) else ExitCode.DONE
