"""The command line in this process, which has imported everything already: a start of its own costs six seconds."""

import io
import os
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess
from unittest.mock import patch

from hubinit import cli


def run(*arguments):
    """What `hubinit` with these arguments prints, and the code it ends with."""
    command = ["hubinit", *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        warnings.catch_warnings(),
        patch.object(sys, "argv", command),
        patch.dict(os.environ, COLUMNS="200"),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    return CompletedProcess(command, code or 0, out.getvalue(), err.getvalue())
