"""The command line without the cost of a process: the same arguments, streams and exit codes."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess
from unittest.mock import patch

from mtpgraft.cli.main import main


class InProcess:
    """Takes what tests/conftest.py's Program takes. Runs in the current folder; `env` is set for the call."""

    def __call__(self, *args: object, expect: int | None = 0, **env: str) -> CompletedProcess[str]:
        argv = ["mtpgraft", *map(str, args)]
        out, err = io.StringIO(), io.StringIO()
        code = 0
        with (
            patch.object(sys, "argv", argv),
            patch.dict("os.environ", {"NO_COLOR": "1", **env}),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as ended:
                code = int(ended.code or 0)
        done = CompletedProcess(argv, code, out.getvalue(), err.getvalue())
        if expect is not None:
            assert code == expect, f"exit {code}\n{done.stdout}\n{done.stderr}"
        return done
