"""``python -m mlsched.api.worker BLOB``: runs a submitted function in its job.

Takes the call from the blob, runs it, and leaves the result or the exception in the attempt
directory. Exit code 0 for a result, 1 for an exception; `SystemExit` keeps its own code.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import traceback
from pathlib import Path

from mlsched.api.functions import load_call, read_blob
from mlsched.api.progress import PROGRESS_VARIABLE
from mlsched.api.results import write_error, write_result
from mlsched.errors import MlschedError


def main(argv: list[str]) -> int:
    """Run the function of a blob; returns the exit code."""
    progress_file = os.environ.get(PROGRESS_VARIABLE)
    if len(argv) != 1 or not progress_file:
        print("mlsched.api.worker runs inside a job, with one blob.", file=sys.stderr)  # noqa: T201
        return 2
    directory = Path(progress_file).parent
    rank = int(os.environ.get("RANK") or 0)
    try:
        value = _run(Path(argv[0]))
        write_result(directory, rank, value)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the user's code may raise anything
        _strip_own_frames(error)
        traceback.print_exception(error)
        write_error(directory, rank, error)
        return 1
    return 0


def _run(blob: Path) -> object:
    header, payload = read_blob(blob)
    call = load_call(header, payload)
    value = call.function(*call.args, **call.kwargs)
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def _strip_own_frames(error: BaseException) -> None:
    """Begin the traceback at the user's own frames, where there are any."""
    if isinstance(error, MlschedError):
        return
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    if trace is not None:
        error.__traceback__ = trace


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
