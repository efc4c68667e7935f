"""The entry of the program ``mlsched``: errors to messages, messages to exit codes.

The only place that ends the process. Imports Typer late: what needs nothing of it comes first.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE: what a shell reports of ``cat`` in the same place."""

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    _open_missing_streams()
    if words in (["version"], ["--version"], ["-V"]):
        from mlsched.version import __version__

        sys.stdout.write(f"mlsched {__version__}\n")
        return _flush(0)
    try:
        return _flush(_run(words))
    except BrokenPipeError:
        return _flush(EXIT_BROKEN_PIPE)
    except KeyboardInterrupt:
        return _flush(EXIT_INTERRUPTED)


def _open_missing_streams() -> None:
    """Where a standard stream was closed by who started us, read nothing and write to nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123


def _flush(code: int) -> int:
    """Flush both streams; a reader that has left is no error of ours."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _give_up(stream)
            code = code or EXIT_BROKEN_PIPE
        except (OSError, ValueError):
            _give_up(stream)
            code = code or 1
    return code


def _give_up(stream: Any) -> None:
    """Send what is left in a stream's buffer nowhere, so that the interpreter's end is quiet."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        return


def _run(words: list[str]) -> int:
    try:
        return _invoke(words)
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 - the edge of the process
        return _tell(error, words)


def _invoke(words: list[str]) -> int:
    from mlsched.cli.loading import make_program

    program = make_program()
    if "_MLSCHED_COMPLETE" in os.environ:
        program.main(words, prog_name="mlsched")
    with program.make_context("mlsched", list(words)) as context:
        context.obj = list(words)
        code = program.invoke(context)
    return code if isinstance(code, int) else 0


def _tell(error: Exception, words: list[str]) -> int:
    """What a command exits with that was ended by this; tells what there is to tell."""
    import typer

    from mlsched.errors import MlschedError

    if isinstance(error, typer.Exit):
        code = int(error.exit_code)
    elif isinstance(error, typer.Abort):
        code = EXIT_INTERRUPTED
    elif isinstance(error, typer.TyperException):
        code = _report_usage(error, words)
    elif isinstance(error, MlschedError):
        report(error.to_dict(), as_json=wants_json(words))
        code = error.exit_status
    elif isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
        told = {"code": "CannotWrite", "message": f"cannot write the output: {error.strerror}."}
        hint = "What was submitted goes on; what was published stays."
        report({**told, "hint": hint}, as_json=wants_json(words))
        code = 1
    else:
        code = _report_bug(error, words)
    return code


def wants_json(words: list[str]) -> bool:
    """Whether the command line asks for JSON, as far as that can be told of a wrong one."""
    given = words[: words.index("--")] if "--" in words else words
    pairs = zip(given, [*given[1:], ""], strict=True)
    asked = [value for flag, value in pairs if flag in ("-o", "--output")]
    return (
        "--json" in given
        or "-ojson" in given
        or "--output=json" in given
        or (asked or [os.environ.get("MLSCHED_OUTPUT", "")])[-1] == "json"
    )


def report(error: dict[str, str], *, as_json: bool) -> None:
    """Tell an error on standard error: for people, or as one JSON object."""
    from mlsched.cli.render.texts import printable

    if as_json:
        import json

        text = json.dumps({"error": error})
    else:
        text = f"error: {printable(error['message'])}"
        if error.get("hint"):
            text += f"\nhint: {printable(error['hint'])}"
    try:
        sys.stdout.flush()
    except OSError:
        _give_up(sys.stdout)
    finally:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _report_usage(error: Any, words: list[str]) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(f"{error.format_message()}\n")
        return 2
    path = context.command_path if context is not None else "mlsched"
    message = error.format_message()
    told = {
        "code": "Usage",
        "message": message[:1].lower() + message[1:],
        "hint": f"Run '{path} --help' to see how it is used.",
    }
    report(told, as_json=wants_json(words))
    return int(error.exit_code)


def _report_bug(error: Exception, words: list[str]) -> int:
    """One line for the user; the traceback goes to a file for a bug report."""
    import tempfile
    import traceback

    where = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="mlsched-bug-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            traceback.print_exception(error, file=file)
            where = file.name
    except OSError:
        where = "nowhere: the disk is full"
    told = {
        "code": "Bug",
        "message": f"a bug of mlsched: {type(error).__name__}: {str(error)[:200]}",
        "hint": f"Please report it; the details are in {where}.",
    }
    report(told, as_json=wants_json(words))
    return 1
