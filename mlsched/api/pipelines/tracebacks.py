"""Tracebacks as the author of a pipeline needs them: the frames of that code, and none of ours."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path
from types import FrameType

import mlsched
import mlsched_pipelines
from mlsched.errors import MlschedError, PipelineError

_TEXT_MAX = 16_000
_FRAMES_MAX = 20

_OURS = tuple(f"{Path(each.__path__[0])}/" for each in (mlsched, mlsched_pipelines))
_STDLIB = sysconfig.get_path("stdlib") + "/"
_INSTALLED = ("/site-packages/", "/dist-packages/")
_BETWEEN = ("cloudpickle", "dask", "distributed", "pyarrow", "ray", "tblib", "tornado")
"""Packages between a user's function and the thread or process that calls it."""


class UserCodeError(PipelineError):
    """The user's file, or the function that is to make a plan, raised an exception.

    Args:
        message: Where, and what was raised.
        hint: What to do next.
        trace: The user's frames, as text.
    """

    code = "UserCodeFailed"

    def __init__(self, message: str, hint: str = "", *, trace: str = "") -> None:
        super().__init__(message, hint)
        self.trace = trace

    def to_dict(self) -> dict[str, str]:
        """The error with the user's frames."""
        return {**super().to_dict(), "traceback": self.trace}


def describe(error: BaseException) -> str:
    """``ValueError: bad`` in one text, whatever the exception's own ``str`` does."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the user's own __str__ may do anything
        text = "its message cannot be told: str() of it fails"
    name = type(error).__qualname__
    return clean(f"{name}: {text}" if text else name)


def clean(text: str) -> str:
    """Text that UTF-8 can hold: half of a surrogate pair is spelt out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def chain_of(error: BaseException) -> list[BaseException]:
    """An error and its causes, what was raised first at the beginning."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    return chain[::-1]


def user_traceback(error: BaseException) -> str:
    """The frames of the user's code, from the first one on; empty where none took part.

    Of a chain of causes the first one counts that has such frames: an error of a task comes from
    another thread or process than the error of the run. A syntax error has no frame of its own:
    its place in the file is what is shown.
    """
    chain = chain_of(error)
    frames = [[_summary(*each) for each in traceback.walk_tb(one.__traceback__)] for one in chain]
    for wanted in (_USERS, _OTHERS):
        for one, summaries in zip(chain, frames, strict=True):
            ranks = [_rank(each.filename) for each in summaries]
            if wanted in ranks:
                return _format(one, summaries[ranks.index(wanted) :])
    return _format(chain[0], []) if isinstance(chain[0], SyntaxError) else ""


def _format(error: BaseException, frames: list[traceback.FrameSummary]) -> str:
    """As Python shows it; of errors of ours without our frames and without the message."""
    ours = isinstance(error, MlschedError)
    kept = [each for each in frames if not ours or _rank(each.filename) != _PASSED]
    shown = traceback.StackSummary.from_list(kept[-_FRAMES_MAX:]).format()
    shown += [] if ours else [_last_lines(error)]
    head = ["Traceback (most recent call last):\n"] if kept else []
    return clean("".join(head + shown)).rstrip("\n")[-_TEXT_MAX:]


def _last_lines(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception_only(error))
    except Exception:  # noqa: BLE001 - as in `describe`
        return describe(error)


def _summary(frame: FrameType, line: int | None) -> traceback.FrameSummary:
    """A frame; code that came to a worker by value has lost its file, its module knows it."""
    code = frame.f_code
    name = code.co_filename
    if name.startswith("<") and name.endswith("code>"):
        name = str(frame.f_globals.get("__file__") or name)
    return traceback.FrameSummary(name, line, code.co_name)


_PASSED, _OTHERS, _USERS = range(3)


def _rank(filename: str) -> int:
    """Whose code a file is: the user's, another package's, or what only passes the call on.

    Compiled modules name their sources by relative paths.
    """
    if not os.path.isabs(filename) or filename.startswith(_OURS):  # noqa: PTH117 - once a frame
        return _PASSED
    for place in _INSTALLED:
        _, found, rest = filename.rpartition(place)
        if found:
            return _PASSED if rest.partition("/")[0] in _BETWEEN else _OTHERS
    return _PASSED if filename.startswith(_STDLIB) else _USERS
